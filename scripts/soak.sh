#!/bin/bash
# Power cuts and I/O errors on real ext images in the simulator, for so long: scripts/soak.sh [MINUTES]
# Each history has a seed. A failure prints its seed and where it was cut, and this repeats it:
#   HOLDFAST_SEED=N HOLDFAST_SEEDS=1 scripts/soak.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
need e2fsck:e2fsprogs mke2fs:e2fsprogs resize2fs:e2fsprogs debugfs:e2fsprogs perl:perl-base awk:mawk
need_rust

minutes=${1:-1}
[[ "$minutes" =~ ^[0-9]+$ ]] || die "$minutes is no number of minutes"
if [ -z "${HOLDFAST_SEED:-}" ]; then
    # Others than those of the tests, and never the same.
    HOLDFAST_SEED=$(($(date +%s) * 1000))
    export HOLDFAST_MINUTES=$minutes
fi
export HOLDFAST_SEED
echo "$minutes min from seed $HOLDFAST_SEED on"
cargo test --locked --test power_cuts_ext -- --nocapture p3_real
