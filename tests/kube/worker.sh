# shellcheck shell=bash
# A worker: a kubelet with a containerd, addresses, volumes and a zone of its own, all on this machine.
# Each kubelet has its own containerd, since it ends the pods that it finds there and does not know.

# cgroup_roots NAME: the worker's control group in every hierarchy of this machine (v1 has many, v2 one).
cgroup_roots() {
  local hierarchy
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo "/sys/fs/cgroup/kvasir-$1"
  else
    for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
      [ ! -d "/sys/fs/cgroup/$hierarchy" ] || echo "/sys/fs/cgroup/$hierarchy/kvasir-$1"
    done
  fi
}

containerd_config() { # NAME
  local root=$STATE/$1
  cat <<X
version = 2
root = "$root/containerd"
state = "$root/run"
[grpc]
  address = "$root/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true # runc may not lower it without CAP_SYS_RESOURCE
  enable_unprivileged_ports = true # DNS listens on 53 as an ordinary user
  netns_mounts_under_state_dir = true # so that they are known to be ours
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$root/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
X
}

network_config() { # NAME NUMBER
  local block=10.88.$(($2 + 1))
  cat <<X
{"cniVersion": "0.4.0", "name": "kvasir-test", "plugins": [{
  "type": "bridge", "bridge": "$BRIDGE", "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$STATE/$1/addresses", "routes": [{"dst": "0.0.0.0/0"}],
    "ranges": [[{"subnet": "$PODS", "rangeStart": "$block.1", "rangeEnd": "$block.250", "gateway": "$GATEWAY"}]]}}]}
X
}

kubelet_config() { # NAME NUMBER
  cat <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 10.88.0.$(($2 + 11))
healthzPort: $((10348 + $2))
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/$1.crt
tlsPrivateKeyFile: $PKI/$1.key
containerRuntimeEndpoint: unix://$STATE/$1/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /kvasir-$1
failCgroupV1: false # cgroup v1 is all that some machines have
failSwapOn: false
makeIPTablesUtilChains: false
clusterDomain: cluster.local
clusterDNS: [$DNS_SERVICE]
podLogsDir: $STATE/$1/pod-logs
nodeStatusUpdateFrequency: 2s
imageGCHighThresholdPercent: 100 # images cannot be pulled again
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}
X
}

start_worker() { # NUMBER
  local number=$1 name=node-$1 root=$STATE/node-$1 address=10.88.0.$(($1 + 11)) archive v
  mkdir -p "$root/cni"
  for ((v = 0; v < VOLUMES; v++)); do mkdir -p "$root/volumes/$v"; done
  ip addr replace "$address/16" dev "$BRIDGE"
  certificate "$name" "/O=system:nodes/CN=system:node:$name" "subjectAltName=IP:$address,DNS:$name\nextendedKeyUsage=clientAuth,serverAuth"
  kubeconfig "$root/kubeconfig" "$name"
  containerd_config "$name" >"$root/containerd.toml"
  network_config "$name" "$number" >"$root/cni/10-bridge.conflist"
  kubelet_config "$name" "$number" >"$root/kubelet.yaml"
  cgroup_roots "$name" | xargs mkdir -p
  start "containerd-$name" containerd --log-level warn --config "$root/containerd.toml"
  wait_for "containerd of $name" 60 ctr -a "$root/containerd.sock" version
  for archive in "$STATE"/images/*.tar; do import_image "$name" "$archive"; done
  start "kubelet-$name" "$BIN/kubelet" --config="$root/kubelet.yaml" --kubeconfig="$root/kubeconfig" \
    --hostname-override="$name" --root-dir="$root/kubelet" --node-ip="$address"
}

# import_image NAME ARCHIVE: into one worker, unless this very archive was the last one imported there under its name.
import_image() {
  local seen sum
  seen=$STATE/$1/imported/$(basename "$2")
  sum=$(sha256sum <"$2")
  [ "$(cat "$seen" 2>/dev/null)" != "$sum" ] || return 0
  ctr -a "$STATE/$1/containerd.sock" -n k8s.io images import "$2" >/dev/null || fail "$1 does not take the image $2"
  mkdir -p "$STATE/$1/imported"
  echo "$sum" >"$seen"
}

# pod_processes NAME: those in the worker's control groups, and their keepers (shims), known by its socket.
pod_processes() {
  local root
  for root in $(cgroup_roots "$1"); do
    [ ! -d "$root" ] || find "$root" -name cgroup.procs -exec cat {} + 2>/dev/null || true # a group may go meanwhile
  done | sort -u
  pgrep -f "containerd-shim.* -address $STATE/$1/containerd\.sock" || true
}

# kill_worker NAME: as if its power were cut. Its disk ($STATE/NAME) stays, what a reboot would clear goes.
kill_worker() {
  local name=$1 root=$STATE/$1 pids group _
  stop 0 "kubelet-$name" "containerd-$name"
  for _ in $(seq 50); do
    pids=$(pod_processes "$name")
    [ -n "$pids" ] || break
    xargs -r kill -9 <<<"$pids" 2>/dev/null || true
    sleep 0.1
  done
  [ -z "$pids" ] || fail "processes of $name do not end: ${pids//$'\n'/ }"
  cut -d' ' -f2 /proc/mounts | grep "^$root/" | sort -ru | xargs -r -n1 umount -l 2>/dev/null || true
  rm -rf "$root/run" "$root/addresses"
  for group in $(cgroup_roots "$name"); do
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

# Volumes of the class `standard`: a directory of one worker each. `local`, not hostPath: only there does fsGroup work.
volumes() {
  local number v
  cat <<X
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
X
  for ((number = 0; number < WORKERS; number++)); do
    for ((v = 0; v < VOLUMES; v++)); do
      cat <<X
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: node-$number-$v}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  persistentVolumeReclaimPolicy: Retain
  local: {path: $STATE/node-$number/volumes/$v}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-$number]}]}]}}
X
    done
  done
}
