# shellcheck shell=bash
# One certificate authority, a certificate for each component, and the kubeconfigs that use them.
# Invariant: a certificate appears under its name whole or not at all, so a killed run leaves nothing that misleads.

authority() {
  mkdir -p "$PKI"
  [ -f "$PKI/ca.crt" ] || {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=kvasir-test-ca \
      -keyout "$PKI/ca.key" -out "$PKI/ca.new" 2>/dev/null && mv "$PKI/ca.new" "$PKI/ca.crt"
  }
  [ -f "$PKI/sa.pub" ] || {
    openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null &&
      openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.new" 2>/dev/null && mv "$PKI/sa.new" "$PKI/sa.pub"
  }
}

# certificate NAME SUBJECT EXTENSIONS
certificate() {
  local to=$PKI/$1
  [ ! -f "$to.crt" ] || return 0
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$to.key" -out "$to.csr" 2>/dev/null
  openssl x509 -req -in "$to.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 365 -out "$to.new" \
    -extfile <(printf '%b' "$3") 2>/dev/null || fail "openssl made no certificate for $1"
  mv "$to.new" "$to.crt"
}

# kubeconfig FILE CERTIFICATE: everything inline, so that the file can be carried elsewhere.
kubeconfig() {
  local data="base64 -w0"
  cat >"$1.new" <<X
apiVersion: v1
kind: Config
clusters: [{name: kvasir-test, cluster: {server: "https://127.0.0.1:$API_PORT", certificate-authority-data: $($data "$PKI/ca.crt")}}]
users: [{name: $2, user: {client-certificate-data: $($data "$PKI/$2.crt"), client-key-data: $($data "$PKI/$2.key")}}]
contexts: [{name: kvasir-test, context: {cluster: kvasir-test, user: $2}}]
current-context: kvasir-test
X
  chmod 600 "$1.new"
  mv "$1.new" "$1"
}

certificates() {
  authority
  local client='extendedKeyUsage=clientAuth' name
  certificate apiserver /CN=kube-apiserver \
    "subjectAltName=IP:127.0.0.1,IP:$API_SERVICE,IP:$GATEWAY,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin /O=system:masters/CN=admin "$client"
  certificate controllers /CN=system:kube-controller-manager "$client"
  certificate scheduler /CN=system:kube-scheduler "$client"
  certificate proxy /CN=system:kube-proxy "$client"
  for name in admin controllers scheduler proxy; do kubeconfig "$STATE/$name.kubeconfig" "$name"; done
}
