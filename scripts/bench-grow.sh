#!/bin/bash
# Time and memory of growing a mail store, beside the bare commands, on copies of one image:
#   scripts/bench-grow.sh [--image NAME] [--runs N] [--cold]
# NAME is one that images/make knows (default mail-200k: 200,000 messages, 4 → 8 GiB); the medians
# of N runs (default 3) are shown. --cold empties the page cache before each command (as root).
# The bare commands are what an administrator types: e2fsck -f -p, sfdisk, resize2fs, e2fsck -fn,
# and sync, since holdfast flushes too. They prove nothing about the messages.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

image=mail-200k runs=3 cold=''
while [ $# -gt 0 ]; do
    case $1 in
        --image) image=${2:?} ; shift ;;
        --runs) runs=${2:?} ; shift ;;
        --cold) cold=yes ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
[ -z "$cold" ] || is_root || die '--cold needs root'

need e2fsck:e2fsprogs resize2fs:e2fsprogs sfdisk:fdisk perl:perl-base awk:mawk cmp:diffutils \
    /usr/bin/time:time
need_rust
holdfast=$(build_release)

dir=$(mktemp -d /var/tmp/holdfast-bench.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
cd "$dir"
readonly OFFSET=$((3 << 20))

# measure NAME COMMAND …: adds "NAME seconds KiB" to the file `figures`.
measure() {
    local name=$1
    shift
    [ -z "$cold" ] || echo 3 >/proc/sys/vm/drop_caches
    /usr/bin/time -q -a -o figures -f "$name %e %M" "$@" >log 2>&1 ||
        { cat log >&2; die "$name failed"; }
}

fresh() { rm -f work.img; cp --sparse=always original.img work.img; sync; }

grow_table() { echo ', +' | sfdisk --quiet --no-reread --no-tell-kernel -N 2 work.img; }
export -f grow_table

echo "making $image"
"$root/images/make" "$image" original.img
for ((run = 1; run <= runs; run++)); do
    echo "run $run of $runs"
    fresh
    measure e2fsck-f-p e2fsck -f -p "work.img?offset=$OFFSET"
    measure sfdisk bash -c grow_table
    sectors=$(sfdisk --dump work.img | sed -n 's/^work.img2 .*size= *\([0-9]*\),.*/\1/p')
    measure resize2fs resize2fs "work.img?offset=$OFFSET" "${sectors}s"
    measure e2fsck-fn e2fsck -fn "work.img?offset=$OFFSET"
    measure sync sync work.img
    for level in changed used; do
        fresh
        measure "holdfast-$level" "$holdfast" --state-dir state grow work.img --partition 2 \
            --to max --verify "$level" --yes
        rm -rf state
    done
done

awk '
    { seconds[$1, ++count[$1]] = $2; if ($3 > kib[$1]) kib[$1] = $3 }
    # The median of up to some tens of figures.
    function median(name,   i, j, n, t, v) {
        n = count[name]
        for (i = 1; i <= n; i++) v[i] = seconds[name, i]
        for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++)
            if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
        return v[int((n + 1) / 2)]
    }
    function row(what, s, k) {
        printf "%8.1f %8.1f %9.2f s %8.0f MiB  %s\n", s / total, k / peak, s, k / 1024, what
    }
    END {
        names = "e2fsck-f-p sfdisk resize2fs e2fsck-fn sync"
        n = split(names, bare, " ")
        for (i = 1; i <= n; i++) {
            total += median(bare[i])
            if (kib[bare[i]] > peak) peak = kib[bare[i]]
        }
        printf "\n%8s %8s %11s %12s\n", "× time", "× memory", "time", "peak memory"
        row("the bare commands together", total, peak)
        row("holdfast grow --verify changed", median("holdfast-changed"), kib["holdfast-changed"])
        row("holdfast grow --verify used (default)", median("holdfast-used"), kib["holdfast-used"])
        print "  of the bare commands:"
        for (i = 1; i <= n; i++) row("  " bare[i], median(bare[i]), kib[bare[i]])
    }
' figures
