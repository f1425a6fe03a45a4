# model.sh - ./dev model: what spin makes of model/. Sourced, never run.

# file, flags, mutation: "-" holds in every state; any other leaves one rule out, and spin must find a run that strands a workload.
models='
rotation.pml - -
rotation.pml -DCHANGES=1,-DPEER -
rotation.pml -DCHANGES=1,-DLOSSES=1 -
rotation.pml -DPROGRESS -
rotation.pml - NO_WIDEN_FIRST
rotation.pml - NO_REPLICA_TRUST
rotation.pml - NO_REPLICA_GENERATION
rotation.pml - NO_WORKLOAD_TRUST
rotation.pml - NO_ACK_GENERATION
rotation.pml - NO_ROW_GENERATION
rotation.pml - NO_REPLICA_SIGNER
rotation.pml - NO_SIGNER_GENERATION
rotation.pml - NO_LEDGER
rotation.pml - NO_GENERATION
rotation.pml - NO_FRESH_LIST
rotation.pml -DCHANGES=1,-DLOSSES=1 NO_RECOVERY
rotation.pml -DLOSSES=1 NO_RECOVERY_SINCE
rotation.pml -DPROGRESS NO_EXPIRY
'

# run_model FILE FLAGS MUTATION: searched whole without an error, or with one.
run_model() {
  local dir errors states want=0 whole=yes flags=()
  dir=$(mktemp -d)
  [ "$2" = - ] || IFS=, read -ra flags <<<"$2"
  [ "$3" = - ] || { flags+=("-D$3"); want=1; }
  (cd "$dir" && cp "$root"/model/*.pml . && spin "${flags[@]}" -a "$1" >spin.out && gcc -w -O1 -DSAFETY -DCOLLAPSE -DMEMLIM=1900 -o pan pan.c &&
    (ulimit -t 120; ./pan -E -m200000 >pan.out)) || { cat "$dir"/*.out; say "$1 ${flags[*]}: it cannot be searched"; rm -rf "$dir"; return 1; }
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$dir/pan.out")
  states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$dir/pan.out")
  ! grep -qE 'max search depth too small|out of memory|reached -DMEMLIM' "$dir/pan.out" || whole=no
  grep -qF 'assertion violated' "$dir/pan.out" || [ $want = 0 ] || errors=0
  rm -rf "$dir"
  printf '%-14s %-26s errors %s of %s, %s states\n' "$1" "${flags[*]#-D}" "$errors" "$want" "$states"
  [ "$errors" = "$want" ] && { [ $want = 1 ] || [ $whole = yes ]; }
}

run_models() {
  local root=$PWD file flags mutation bad=0
  while read -r file flags mutation; do
    [ -z "$file" ] || run_model "$file" "$flags" "$mutation" || { say "$file $flags $mutation: not what it must be"; bad=1; }
  done <<<"$models"
  return $bad
}
