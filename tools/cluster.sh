# cluster.sh - a real Kubernetes on this machine, as root, without a registry or a container engine. Sourced, never run.
#
#   cluster_api_start DIR    etcd, API server and controllers on loopback; DIR/admin.conf is the administrator's kubeconfig
#   cluster_start DIR        a whole node too (scheduler, proxy, containerd, kubelet), in a network namespace of its own; commands
#                            that speak to it run by `cluster_in DIR COMMAND...`
#   cluster_enforce DIR      the node of cluster_start enforces NetworkPolicies from here on; cluster_unenforce DIR: not any more
#   cluster_stop DIR         ends every process by its pid, unmounts, removes the namespace, the cgroups, and DIR
#   cluster_session COMMAND...  COMMAND with CLUSTER_RUN, a folder for clusters that are stopped however it ends
#
# DIR is new and belongs to one cluster. Call cluster_stop from a trap: it copes with a start that failed half way. A session that is
# killed with SIGKILL is swept by the next one.
# Settings and why: ../shared/specs/cluster.md. Binaries: cluster_build, once per machine.

kube_version=1.37.2
cluster_cache=${XDG_CACHE_HOME:-$HOME/.cache}/meshroot-cluster/$kube_version
cluster_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cluster_kube_names="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl"
cluster_istio_names="pilot-discovery pilot-agent istioctl"

cluster_say() { printf 'cluster: %s\n' "$*" >&2; }

# -- binaries -----------------------------------------------------------------------------------------------------------

cluster_has_kube() { [ -x "$cluster_cache/kube" ] && [ -x "$cluster_cache/kubelet" ]; }
cluster_has_istio() {
  local n
  for n in $cluster_istio_names; do [ -x "$cluster_cache/$n" ] || return 1; done
  [ -d "$cluster_cache/istio-charts" ] && [ -f "$cluster_cache/envoy_bootstrap.json" ]
}
cluster_has_binaries() { cluster_has_kube && cluster_has_istio; }

# cluster_go_build FOLDER OUT PACKAGE [LDFLAGS]: into the cache as a whole or not at all
cluster_go_build() {
  local folder=$1 out=$2 package=$3 flags=${4:-} tmp
  tmp=$(mktemp -d "$cluster_cache/.build.XXXXXX")
  (cd "$cluster_top/tests/cluster/$folder" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 10 go build -trimpath -ldflags "-s -w $flags" -o "$tmp/$out" "$package") ||
    { rm -rf "$tmp"; cluster_say "cannot build $out from tests/cluster/$folder"; return 1; }
  mv "$tmp/$out" "$cluster_cache/$out"; rmdir "$tmp"
}

# cluster_istio_files: Istio's own charts and Envoy bootstrap, out of the same module
cluster_istio_files() {
  local from
  (cd "$cluster_top/tests/cluster/istio" && go mod download istio.io/istio) || return 1
  from=$(cd "$cluster_top/tests/cluster/istio" && go list -m -f '{{.Dir}}' istio.io/istio) || return 1
  rm -rf "$cluster_cache/.charts"
  cp -r --no-preserve=mode "$from/manifests/charts" "$cluster_cache/.charts" && rm -rf "$cluster_cache/istio-charts" && mv "$cluster_cache/.charts" "$cluster_cache/istio-charts"
  install -m 644 "$from/tools/packaging/common/envoy_bootstrap.json" "$cluster_cache/envoy_bootstrap.json"
}

# cluster_build: what is not in the cache yet; 30 minutes on two cores from nothing, nothing afterwards. Needs Go (need_go).
cluster_build() {
  local at=k8s.io/component-base/version n
  local flags="-X $at.gitVersion=v$kube_version -X $at.gitMajor=1 -X $at.gitMinor=37"
  mkdir -p "$cluster_cache"
  [ -x "$cluster_cache/kube" ] || { cluster_say "building the control plane, once"; cluster_go_build kube kube ./kube "$flags" || return 1; }
  [ -x "$cluster_cache/kubelet" ] || { cluster_say "building kubelet, once"; cluster_go_build kube kubelet ./kubelet "$flags" || return 1; }
  for n in $cluster_kube_names; do ln -sfn kube "$cluster_cache/$n"; done
  for n in pilot/cmd/pilot-discovery pilot/cmd/pilot-agent istioctl/cmd/istioctl; do
    [ -x "$cluster_cache/${n##*/}" ] && continue
    cluster_say "building ${n##*/}, once"
    cluster_go_build istio "${n##*/}" "istio.io/istio/$n" || return 1
  done
  cluster_has_istio || cluster_istio_files
}

# cluster_build_enforcer: kube-router, for test_policies.py alone: 6 minutes from an empty cache. Not one of cluster_has_binaries. Needs Go.
cluster_build_enforcer() {
  local at
  mkdir -p "$cluster_cache"
  at=$cluster_top/tests/cluster/policies/go.mod
  [ -x "$cluster_cache/kube-router" ] && [ "$cluster_cache/kube-router" -nt "$at" ] && return 0
  cluster_say "building kube-router, once"
  cluster_go_build policies kube-router github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
}

# -- processes ----------------------------------------------------------------------------------------------------------

# cluster_wait SECONDS WHAT COMMAND...: until COMMAND says yes
cluster_wait() {
  local ends=$(($(date +%s) + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$ends" ] || { cluster_say "waited too long for $what"; return 1; }
    sleep 0.1
  done
}

# cluster_in DIR COMMAND...: where DIR's cluster is: in its network namespace when it has one
cluster_in() {
  local dir=$1; shift
  if [ -f "$dir/netns" ]; then nsenter --net="/run/netns/$(cat "$dir/netns")" -- "$@"; else "$@"; fi
}
cluster_kubectl() { local dir=$1; shift; cluster_in "$dir" "$cluster_cache/kubectl" --kubeconfig "$dir/admin.conf" "$@"; }

# cluster_run DIR NAME COMMAND...: in the background; DIR is among the arguments of each, by which cluster_end knows it again
cluster_run() {
  local dir=$1 name=$2; shift 2
  local in=(env) # a command, not a function: $! is then the process itself
  [ ! -f "$dir/netns" ] || in=(nsenter "--net=/run/netns/$(cat "$dir/netns")" --)
  setsid "${in[@]}" "$@" >"$dir/log/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/pid/$name"
}
# cluster_alive PID DIR: is PID still a process of DIR's cluster?
cluster_alive() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$2"; }
cluster_gone() { ! cluster_alive "$@"; }
cluster_end() {
  local dir=$1 name=$2 pid
  pid=$(cat "$dir/pid/$name" 2>/dev/null) || return 0
  if cluster_alive "$pid" "$dir"; then
    kill "$pid" 2>/dev/null || true
    cluster_wait 5 "the end of $name" cluster_gone "$pid" "$dir" || kill -9 "$pid" 2>/dev/null || true
  fi
  rm -f "$dir/pid/$name"
}

# cluster_ports N: free ports of loopback
cluster_ports() {
  /usr/bin/python3 -c 'import socket,sys
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(x.getsockname()[1] for x in s))' "$1"
}

# -- certificates and kubeconfigs ----------------------------------------------------------------------------------------

cluster_pki_ca() {
  mkdir -p "$1/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=kubernetes -keyout "$1/pki/ca.key" -out "$1/pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$1/pki/sa.key" 2048 2>/dev/null
  openssl rsa -in "$1/pki/sa.key" -pubout -out "$1/pki/sa.pub" 2>/dev/null
}
# cluster_cert DIR NAME SUBJECT [SUBJECT_ALT_NAMES]
cluster_cert() {
  local p=$1/pki/$2 ext="extendedKeyUsage=clientAuth,serverAuth"
  [ -z "${4:-}" ] || ext="$ext
subjectAltName=$4"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$3" -keyout "$p.key" -out "$p.csr" 2>/dev/null
  openssl x509 -req -days 30 -in "$p.csr" -CA "$1/pki/ca.crt" -CAkey "$1/pki/ca.key" -CAcreateserial -extfile <(printf '%s\n' "$ext") -out "$p.crt" 2>/dev/null
  rm -f "$p.csr"
}
# cluster_kubeconfig DIR NAME SUBJECT: DIR/NAME.conf with a client certificate in it
cluster_kubeconfig() {
  cluster_cert "$1" "$2" "$3"
  cat >"$1/$2.conf" <<TXT
apiVersion: v1
kind: Config
current-context: $2
clusters: [{name: cluster, cluster: {server: "$(cat "$1/server")", certificate-authority-data: $(base64 -w0 "$1/pki/ca.crt")}}]
users: [{name: $2, user: {client-certificate-data: $(base64 -w0 "$1/pki/$2.crt"), client-key-data: $(base64 -w0 "$1/pki/$2.key")}}]
contexts: [{name: $2, context: {cluster: cluster, user: $2}}]
TXT
  chmod 600 "$1/$2.conf"
}

# -- the control plane ---------------------------------------------------------------------------------------------------

# cluster_api_run DIR: the API server alone, with the ports that DIR/ports has; also to start it again after cluster_end DIR apiserver
cluster_api_run() {
  local dir=$1 etcd peer api bind
  read -r etcd peer api bind <"$dir/ports"
  cluster_run "$dir" apiserver "$cluster_cache/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd" --bind-address="$bind" --secure-port="$api" \
    --advertise-address="$([ "$bind" = 127.0.0.1 ] && echo 127.0.0.1 || echo 10.96.0.1)" --endpoint-reconciler-type=none \
    --authorization-mode=Node,RBAC --client-ca-file="$dir/pki/ca.crt" --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$dir/pki/sa.pub" \
    --service-account-signing-key-file="$dir/pki/sa.key" --service-cluster-ip-range=10.96.0.0/24 --cert-dir="$dir/pki" \
    --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate="$dir/pki/admin.crt" --kubelet-client-key="$dir/pki/admin.key" \
    --kubelet-certificate-authority="$dir/pki/ca.crt"
}
cluster_api_ready() { cluster_kubectl "$1" get --raw /readyz; }

# cluster_control DIR ETCD_PORT PEER_PORT API_PORT BIND: etcd (which does not wait for the disk), API server, controllers
cluster_control() {
  local dir=$1 etcd=$2 peer=$3 api=$4 bind=$5 host=127.0.0.1
  echo "$etcd $peer $api $bind" >"$dir/ports"
  echo "https://$host:$api" >"$dir/server"
  cluster_pki_ca "$dir"
  cluster_cert "$dir" apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1"
  cluster_kubeconfig "$dir" admin /O=system:masters/CN=admin
  cluster_kubeconfig "$dir" controllers /CN=system:kube-controller-manager
  cluster_run "$dir" etcd etcd --data-dir "$dir/etcd" --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" --unsafe-no-fsync
  cluster_api_run "$dir"
  cluster_wait 240 "the API server ($dir/log/apiserver.log)" cluster_api_ready "$dir" || return 1
  cluster_run "$dir" controllers "$cluster_cache/kube-controller-manager" --kubeconfig="$dir/controllers.conf" --root-ca-file="$dir/pki/ca.crt" \
    --service-account-private-key-file="$dir/pki/sa.key" --use-service-account-credentials --leader-elect=false --bind-address=127.0.0.1 \
    --secure-port="$([ "$bind" = 127.0.0.1 ] && echo 0 || echo 10257)" --cert-dir="$dir/pki"
  cluster_wait 240 "the controllers ($dir/log/controllers.log)" cluster_kubectl "$dir" get serviceaccount default
}

cluster_folder() { [ ! -e "$1/pid" ] || { cluster_say "$1 has a cluster already"; return 1; }; mkdir -p "$1/log" "$1/pid"; }

cluster_api_start() {
  local ports
  cluster_folder "$1" || return 1
  read -ra ports < <(cluster_ports 3)
  cluster_control "$1" "${ports[@]}" 127.0.0.1
}

# -- the node ------------------------------------------------------------------------------------------------------------

# Fixed ports and addresses are free in a namespace of its own: the API server at its Service address, where pods expect it.
cluster_netns() {
  local ns; ns=meshroot-$$
  ip netns add "$ns" && echo "$ns" >"$1/netns"
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add 10.96.0.1/32 dev lo
  ip -n "$ns" addr add 10.96.0.2/32 dev lo
  ip -n "$ns" addr add 10.96.0.10/32 dev lo
  ip -n "$ns" route add 10.96.0.0/24 dev lo # the API server calls webhooks by their Services: kube-proxy's rules send it on
  cluster_in "$1" sysctl -qw net.ipv4.ip_forward=1
}

# The pause image: a static program that waits for a signal.
cluster_pause_image() {
  gcc -Os -static -o "$1/pause" -x c - <<'C'
#include <signal.h>
#include <unistd.h>
static void end(int s) { (void)s; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
C
  /usr/bin/python3 "$cluster_top/tests/cluster/image.py" "$1/pause.tar" meshroot.test/pause:1 /pause "$1/pause:/pause"
}

cluster_containerd() {
  local dir=$1
  mkdir -p "$dir/cni"
  cat >"$dir/cni/10-bridge.conflist" <<TXT
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "mr0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$dir/cni-ip",
  "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "loopback"}]}
TXT
  cat >"$dir/containerd.toml" <<TXT
version = 2
root = "$dir/containerd"
state = "$dir/run"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "meshroot.test/pause:1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
TXT
  cluster_run "$dir" containerd containerd -c "$dir/containerd.toml"
  cluster_wait 120 "containerd ($dir/log/containerd.log)" ctr -a "$dir/containerd.sock" version || return 1
  cluster_pause_image "$dir" && cluster_image "$dir" "$dir/pause.tar"
}
# cluster_image DIR ARCHIVE: into the node's images
cluster_image() { ctr -a "$1/containerd.sock" -n k8s.io images import "$2" >/dev/null; }

cluster_kubelet() {
  local dir=$1
  cluster_kubeconfig "$dir" kubelet /O=system:nodes/CN=system:node:node1
  cluster_cert "$dir" node /CN=node1 DNS:node1,IP:10.96.0.2
  cat >"$dir/kubelet.yaml" <<TXT
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
address: 10.96.0.2
tlsCertFile: $dir/pki/node.crt
tlsPrivateKeyFile: $dir/pki/node.key
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
resolvConf: ""
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
makeIPTablesUtilChains: false
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
syncFrequency: 5s
podLogsDir: $dir/pods
volumePluginDir: $dir/volume-plugins
TXT
  [ -e /var/lib/kubelet ] || touch "$dir/made-var-lib-kubelet"
  cluster_run "$dir" kubelet "$cluster_cache/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$dir/kubelet.conf" --root-dir="$dir/kubelet" \
    --hostname-override=node1 --node-ip=10.96.0.2
  cluster_wait 240 "the node ($dir/log/kubelet.log)" cluster_node_ready "$dir"
}
cluster_node_ready() { [ "$(cluster_kubectl "$1" get node node1 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }

cluster_start() {
  local dir=$1 at
  cluster_folder "$dir" || return 1
  for at in /run/containerd /run/containerd/{s,runc,runc/k8s.io,fifo} /var/lib/cni /var/lib/cni/results /var/log/containers; do [ -e "$at" ] || echo "$at"; done >"$dir/made"
  cluster_netns "$dir" && cluster_control "$dir" 2379 2380 443 0.0.0.0 || return 1
  cluster_kubeconfig "$dir" scheduler /CN=system:kube-scheduler
  cluster_kubeconfig "$dir" proxy /CN=system:kube-proxy
  cluster_run "$dir" scheduler "$cluster_cache/kube-scheduler" --kubeconfig="$dir/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1
  cluster_run "$dir" proxy "$cluster_cache/kube-proxy" --kubeconfig="$dir/proxy.conf" --hostname-override=node1 --proxy-mode=iptables \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s --cluster-cidr=10.244.0.0/24
  cluster_run "$dir" dns /usr/bin/python3 "$cluster_top/tests/cluster/dns.py" "$(cat "$dir/server")" "$dir/pki" 10.96.0.10
  cluster_containerd "$dir" && cluster_kubelet "$dir"
}

# -- NetworkPolicies -----------------------------------------------------------------------------------------------------

# cluster_enforce DIR: kube-router's firewall and nothing else of it. It lets through whatever goes to the Services' range on the node
# itself: told of a range that nobody has, it judges also what goes to the API server, names and kubelet, which live there.
cluster_enforce() {
  local dir=$1
  cluster_kubeconfig "$dir" enforcer /O=system:masters/CN=kube-router
  cluster_run "$dir" enforcer "$cluster_cache/kube-router" --kubeconfig="$dir/enforcer.conf" --hostname-override=node1 --run-firewall=true \
    --run-router=false --run-service-proxy=false --run-loadbalancer=false --enable-cni=false --health-port=0 --service-cluster-ip-range=198.18.0.0/24 -v=1
  cluster_wait 240 "kube-router ($dir/log/enforcer.log)" grep -q 'sync iptables took' "$dir/log/enforcer.log"
}

# cluster_unenforce DIR: ends it, and unhooks its chains, which would go on judging
cluster_unenforce() {
  local dir=$1 rule
  cluster_end "$dir" enforcer
  cluster_in "$dir" iptables -w -S | sed -n 's/^-A \(\(INPUT\|FORWARD\|OUTPUT\) .*-j KUBE-ROUTER-.*\)/\1/p' | while read -r rule; do
    eval "cluster_in $dir iptables -w -D $rule" || return 1 # iptables quotes its comments for a shell
  done
  ! cluster_in "$dir" iptables -w -S | grep -q '^-A \(INPUT\|FORWARD\|OUTPUT\) .*-j KUBE-ROUTER-'
}

# -- the end -------------------------------------------------------------------------------------------------------------

# cluster_ids DIR: of its pods' sandboxes and containers, also when containerd is not there any more
cluster_ids() {
  local cri=$1/containerd/io.containerd.grpc.v1.cri
  find "$cri/sandboxes" "$cri/containers" "$1/run/io.containerd.runtime.v2.task/k8s.io" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' 2>/dev/null | sort -u || true
}

# cluster_cgroups IDS: the folders of those containers in every hierarchy, inner ones first
cluster_cgroups() {
  [ -z "$1" ] || find /sys/fs/cgroup -depth -type d -path '*/k8s.io/*' 2>/dev/null | grep -F "$1" || true
}

# Shims outlive containerd on purpose, and containers their shim: a shim has DIR in its arguments, a container a cgroup of its own.
cluster_end_containers() {
  local dir=$1 groups pid at
  groups=$(cluster_cgroups "$2")
  for at in $groups; do
    while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done < <(cat "$at/cgroup.procs" 2>/dev/null || true)
  done
  for pid in $(pgrep -f "containerd-shim.* -address $dir/containerd.sock" || true); do
    kill -TERM "$pid" 2>/dev/null || true
    cluster_wait 10 "a shim's end" cluster_gone "$pid" "$dir" 2>/dev/null || kill -9 "$pid" 2>/dev/null || true
  done
  for at in $groups; do cluster_wait 10 "the end of $at" cluster_rmdir "$at" || true; done
}
cluster_rmdir() { rmdir "$1" 2>/dev/null || [ ! -d "$1" ]; }

# cluster_end_traces DIR IDS: what runc, shims, CNI and kubelet keep of a container outside DIR
cluster_end_traces() {
  local dir=$1 id at
  find "$dir/run" -path '*/k8s.io/*/address' -exec sed 's|^unix://||;s|$|\n|' {} + 2>/dev/null |
    while read -r at; do case "$at" in /run/containerd/s/*) rm -f "$at" ;; esac; done || true
  for id in $2; do
    rm -rf "/run/containerd/runc/k8s.io/$id"
    rm -f /var/lib/cni/results/*-"$id"-* /var/log/containers/*-"$id".log
  done
  find /sys/fs/cgroup -depth -type d -name k8s.io 2>/dev/null | while read -r at; do rmdir "$at" 2>/dev/null || true; done
  while read -r at; do rmdir "$at" 2>/dev/null || true; done <<<"$(sort -r "$dir/made" 2>/dev/null)"
}

cluster_stop() {
  local dir=$1 name at ids
  [ -d "$dir/pid" ] || return 0
  cluster_end "$dir" kubelet
  cluster_end "$dir" containerd
  ids=$(cluster_ids "$dir")
  cluster_end_containers "$dir" "$ids"
  for name in enforcer dns proxy scheduler controllers apiserver etcd; do cluster_end "$dir" "$name"; done
  awk -v d="$dir/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | while read -r at; do umount -l "$at" 2>/dev/null || true; done
  cluster_end_traces "$dir" "$ids"
  [ ! -f "$dir/netns" ] || ip netns del "$(cat "$dir/netns")" 2>/dev/null || true
  [ ! -e "$dir/made-var-lib-kubelet" ] || rm -rf --one-file-system /var/lib/kubelet
  [ -n "${CLUSTER_KEEP:-}" ] || rm -rf --one-file-system "$dir"
}

# cluster_session COMMAND...: with CLUSTER_RUN, a folder for clusters; what is left in it is stopped when COMMAND ends, or when we are told to
cluster_session() {
  local child='' status=0
  cluster_sweep
  CLUSTER_RUN=$(mktemp -d "/tmp/meshroot-cluster.$$.XXXXXX")
  export CLUSTER_RUN
  trap 'cluster_sweep "$CLUSTER_RUN"' EXIT
  trap 'kill $child 2>/dev/null || true; exit 143' TERM INT HUP # and so on to EXIT
  "$@" &
  child=$!
  wait "$child" || status=$?
  cluster_sweep "$CLUSTER_RUN"
  trap - EXIT TERM INT HUP
  return "$status"
}

# cluster_sweep [RUN]: stops the clusters of that session; without one, of each whose process is gone (it was killed: no trap ran)
cluster_sweep() {
  local run dir owner
  for run in ${1:-/tmp/meshroot-cluster.*}; do
    owner=${run#/tmp/meshroot-cluster.}; owner=${owner%%.*}
    [ -d "$run" ] || continue
    [ $# -gt 0 ] || [ ! -d "/proc/$owner" ] || continue
    for dir in "$run"/*/; do CLUSTER_KEEP='' cluster_stop "${dir%/}"; done
    rm -rf --one-file-system "$run"
  done
}
