#!/bin/bash
# Proves what README claims, and prints one table: cases, failures, seeds, time.
#   scripts/prove.sh           everything, for an hour or so; SOAK=MINUTES for a longer soak [10]
#   scripts/prove.sh --fast    what CI runs after the tests, a few minutes: the parts that are more
#                              than tests, and a short soak
# Fails if any number is not what it must be.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
need e2fsck:e2fsprogs mke2fs:e2fsprogs resize2fs:e2fsprogs debugfs:e2fsprogs e2undo:e2fsprogs \
    sfdisk:fdisk sgdisk:gdisk losetup:mount strace:strace perl:perl-base awk:mawk
need_rust
is_root || die 'this needs root: loop devices, FUSE, strace'

fast=0
[ "${1:-}" != --fast ] || fast=1
soak=${SOAK:-10}
[ $fast = 1 ] || export HOLDFAST_LONG=1
[ $fast = 0 ] || soak=1
logs=target/prove
mkdir -p "$logs"
rows=() failed=0

# row PART CASES FAILURES SEEDS SECONDS
row() { rows+=("$(printf '| %s | %s | %s | %s | %s |' "$@")"); }

# part NAME PROGRAM-AND-ARGUMENTS…: runs it; its output goes to a log, its time to $took.
took=0 code=0 log=''
part() {
    local began=$SECONDS
    log=$logs/$1.log
    shift
    code=0
    "$@" >"$log" 2>&1 || code=$?
    took=$((SECONDS - began))
    [ $code = 0 ] || { failed=$((failed + 1)); tail -n 30 "$log"; echo "FAILED: $*; see $log" >&2; }
}

# Sums the numbers behind a word in all lines of counts: {"states": 12, …}
sum() { { grep -o "\"$1\": [0-9]*" "$log" || true; } | awk '{ n += $NF } END { print n + 0 }'; }
passed() { sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }'; }
# at_least WHAT NUMBER MINIMUM
at_least() {
    [ "$2" -ge "$3" ] || { failed=$((failed + 1)); echo "FAILED: $1: $2, and $3 are the least" >&2; }
}
tests() { cargo test --locked "$@" -- --nocapture; }

part cuts tests --test power_cuts
states=$(sum states) points=$(sum 'cut points') errors=$(sum errors)
at_least 'cut states' "$states" 10000
at_least 'errors in recovery and rollback' "$errors" 2000
row 'power cuts, exhaustive: commit × recovery, 8 ways, both directions' "$points points, $states states" $code - "$took s"
row 'errors at every operation of recovery and rollback' "$errors" $code - -

# CI is no lottery: it tries the same histories each time. Whoever proves draws new ones.
first=$(($(date +%s) * 1000))
[ $fast = 0 ] || first=1795521556000
part soak env HOLDFAST_SEED=$first HOLDFAST_MINUTES="$soak" \
    cargo test --locked --test power_cuts_ext -- --nocapture p3_real
seed=$(sed -n 's/^from seed \([0-9]*\)$/\1/p' "$log")
histories=$(sum histories)
at_least 'histories' "$histories" 20
row 'power cuts and errors on real ext images' \
    "$histories histories, $(sum states) states, $(sum 'nested cuts') nested cuts, $(sum 'three deep and more') of them third or later, $(sum errors) errors" \
    $code "from $seed" "$took s"

if [ $fast = 0 ]; then
    part kills tests --test kill
    kills=$({ grep -o '[0-9]* kills' "$log" || true; } | awk '$1 > n { n = $1 } END { print n + 0 }')
    at_least 'kills' "$kills" 200
    row 'real processes killed at a write or flush' "$kills kills" $code - "$took s"

    part io tests --test io_errors
    cases=$({ grep -o '"exit [0-9]*": [0-9]*' "$log" || true; } | awk '{ n += $NF } END { print n + 0 }')
    at_least 'I/O errors' "$cases" 100
    row 'I/O errors met by the real program' "$cases" $code - "$took s"

    part hostile tests --test hostile
    row 'hostile tools, and honest ones' "$(passed) tests" $code '1 to 3' "$took s"

    part input tests --test bad_input --test security
    row 'bad input, security' "$(passed) tests" $code - "$took s"
fi

part baseline tests --test baseline
while IFS= read -r line; do
    tool=${line%%:*} counts=${line#*: }
    row "cuts of ${tool#BASELINE }" "${counts%%,*}" "${counts#*, }" - -
done < <(grep '^BASELINE' "$log" || true)
at_least 'rows of the baseline' "$(grep -c '^BASELINE' "$log" || true)" 6

if [ $fast = 0 ]; then
    part mutations scripts/mutate.sh
    last=$(tail -n 1 "$log")
    row 'mutations: barriers, checksums and comparisons left out' "${last%%,*}" "$(sed -n 's/.* \([0-9]*\) failed.*/\1/p' <<<"$last")" - "$took s"
fi

echo
echo "$(date -u +%F), $(git describe --always --dirty 2>/dev/null || echo 'no commit'), scripts/prove.sh${1:+ $1}, $SECONDS s"
echo
echo '| part | cases | failures | seeds | time |'
echo '|---|---|---|---|---|'
printf '%s\n' "${rows[@]}"
[ $failed = 0 ] || die "$failed of these are wrong"
