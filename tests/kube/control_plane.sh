# shellcheck shell=bash
# etcd, the API server, the controllers, the scheduler and the Service proxy: one of each, on this machine.

network() {
  ip link show "$BRIDGE" >/dev/null 2>&1 || ip link add "$BRIDGE" type bridge
  ip addr replace "$GATEWAY/16" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  sysctl -qw net.ipv4.ip_forward=1
  # Without this an answer between two pods passes by the Service's address translation and is dropped as foreign.
  modprobe -q br_netfilter 2>/dev/null || true
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null ||
    fail "bridge traffic does not pass iptables, so Services cannot work. try: modprobe br_netfilter"
  iptables -w -C FORWARD -i "$BRIDGE" -j ACCEPT 2>/dev/null || iptables -w -I FORWARD -i "$BRIDGE" -j ACCEPT
  # Whose chain it is, before the Service proxy runs for the first time: `down` leaves other people's alone.
  [ -f "$STATE/firewall" ] || { iptables -w -L "$FIREWALL" -n >/dev/null 2>&1 && echo theirs || echo ours; } >"$STATE/firewall"
}

# The Service proxy makes this chain and its own cleanup leaves it.
remove_firewall() {
  local from
  [ "$(cat "$STATE/firewall" 2>/dev/null)" = ours ] || return 0
  for from in INPUT OUTPUT; do
    while iptables -w -D "$from" -j "$FIREWALL" 2>/dev/null; do :; done
  done
  iptables -w -F "$FIREWALL" 2>/dev/null && iptables -w -X "$FIREWALL" || true
}

# A port that belongs to somebody else is named here rather than in a log.
ports_are_free() {
  local name port
  while read -r name port; do
    alive "$name" || ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
      fail "port $port is taken by another program, $name needs it. find it by: ss -ltnp 'sport = :$port'"
  done <<<"apiserver $API_PORT
etcd ${ETCD##*:}"
}

control_plane() {
  export KUBECONFIG=$STATE/admin.kubeconfig
  ports_are_free
  # A test cluster is made anew after a crash of the machine, so etcd need not wait for the disk.
  start etcd etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$ETCD" --advertise-client-urls "$ETCD" \
    --listen-peer-urls "$ETCD_PEER" --initial-advertise-peer-urls "$ETCD_PEER" --initial-cluster "default=$ETCD_PEER"
  wait_for etcd 60 env ETCDCTL_API=3 etcdctl --endpoints "$ETCD" endpoint health
  # NodeRestriction, as real clusters have it; pods leave a dead worker after 20 s instead of 5 minutes.
  start apiserver "$BIN/kube-apiserver" --etcd-servers="$ETCD" --advertise-address="$GATEWAY" --secure-port="$API_PORT" \
    --service-cluster-ip-range="$SERVICES" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --client-ca-file="$PKI/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$PKI/sa.pub" \
    --service-account-signing-key-file="$PKI/sa.key" --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --audit-policy-file="$HERE/audit.yaml" --audit-log-path="$STATE/log/audit.json" \
    --audit-log-maxsize=200 --audit-log-maxbackup=2 --shutdown-delay-duration=0s --profiling=false \
    --default-not-ready-toleration-seconds=20 --default-unreachable-toleration-seconds=20
  wait_for "the API server" 120 "$BIN/kubectl" get --raw /readyz
  start controllers "$BIN/kube-controller-manager" --kubeconfig="$STATE/controllers.kubeconfig" --leader-elect=false \
    --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" --use-service-account-credentials \
    --node-monitor-grace-period=20s --node-monitor-period=2s --profiling=false
  start scheduler "$BIN/kube-scheduler" --kubeconfig="$STATE/scheduler.kubeconfig" --leader-elect=false --profiling=false
}

# One proxy writes the rules for all workers: they share this machine's iptables.
service_proxy() {
  start proxy "$BIN/kube-proxy" --kubeconfig="$STATE/proxy.kubeconfig" --cluster-cidr="$PODS" --hostname-override=node-0 \
    --proxy-mode=iptables --conntrack-max-per-core=0 --profiling=false
}
