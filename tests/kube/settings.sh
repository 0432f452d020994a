# shellcheck shell=bash disable=SC2034 # used by those who source it
# Where the test cluster keeps its things, and its fixed names and addresses. Sourced by every script here.
# Invariant: nothing is ever written into the checkout.

KUBE_VERSION=v1.36.3
WORKERS=${KVASIR_KUBE_WORKERS:-3}
VOLUMES=${KVASIR_KUBE_VOLUMES:-8}  # per worker

# Programs that were built or fetched; survives `down`. Each is filed under a key of all that it was made from.
CACHE=${KVASIR_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir-kube}
# The cluster itself; gone after `down`.
STATE=${KVASIR_KUBE_STATE:-/var/lib/kvasir-kube}
BIN=$STATE/bin
PKI=$STATE/pki

BRIDGE=kvkube0
FIREWALL=KUBE-FIREWALL       # the one chain that kube-proxy --cleanup leaves
GATEWAY=10.88.0.1            # of the bridge; also where the API server is advertised
PODS=10.88.0.0/16            # worker i takes its pods from 10.88.(i+1).0/24 and has 10.88.0.(i+11) itself
SERVICES=10.96.0.0/16
API_SERVICE=10.96.0.1
DNS_SERVICE=10.96.0.10
API_PORT=16443
ETCD=http://127.0.0.1:12379
ETCD_PEER=http://127.0.0.1:12380

fail() { printf 'tests/kube: %s\n' "$*" >&2; exit 1; }
say() { printf '%4ss  %s\n' "$SECONDS" "$*" >&2; }

# wait_for WHAT SECONDS COMMAND...: until the command succeeds; its last words are shown when it never does.
wait_for() {
  local what=$1 deadline=$((SECONDS + $2)) said
  shift 2
  until said=$("$@" 2>&1); do
    [ $SECONDS -lt $deadline ] || fail "$what did not come up: ${said:-no message}. its log is under $STATE/log"
    sleep 0.2
  done
}
