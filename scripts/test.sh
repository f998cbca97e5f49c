#!/bin/bash
# Everything that CI runs, in the order in which it fails soonest. Stops at the first failure.
# Root is needed for loop devices and mounts; HOLDFAST_WITHOUT_ROOT=1 leaves those tests out.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

if ! is_root && [ "${HOLDFAST_WITHOUT_ROOT:-}" != 1 ]; then
    die 'many tests need root: loop devices, mounts. HOLDFAST_WITHOUT_ROOT=1 leaves them out'
fi

# What a test or a script starts by name, and its Debian package.
need e2fsck:e2fsprogs mke2fs:e2fsprogs resize2fs:e2fsprogs tune2fs:e2fsprogs debugfs:e2fsprogs \
    dumpe2fs:e2fsprogs sgdisk:gdisk sfdisk:fdisk mount:mount losetup:mount blkid:util-linux \
    partx:util-linux setpriv:util-linux unshare:util-linux qemu-io:qemu-utils qemu-img:qemu-utils \
    strace:strace perl:perl-base awk:mawk cmp:diffutils ps:procps mkfs.xfs:xfsprogs \
    mkfs.btrfs:btrfs-progs mkfs.fat:dosfstools git:git \
    mkntfs:ntfs-3g mkfs.exfat:exfatprogs mkfs.f2fs:f2fs-tools mkfs.jfs:jfsutils \
    mkreiserfs:reiserfsprogs mkfs.nilfs2:nilfs-tools mkudffs:udftools make-bcache:bcache-tools \
    cryptsetup:cryptsetup-bin fsck.fat:dosfstools mcopy:mtools mdir:mtools mdel:mtools \
    minfo:mtools mmd:mtools mattrib:mtools mkswap:util-linux swaplabel:util-linux \
    ntfsresize:ntfs-3g ntfs-3g:ntfs-3g ntfsfix:ntfs-3g getfattr:attr setfattr:attr \
    xfs_repair:xfsprogs xfs_db:xfsprogs xfs_io:xfsprogs \
    rsync:rsync e2undo:e2fsprogs
need_rust fmt clippy

# Whatever a test starts inherits this, unless it clears its environment.
HOLDFAST_TEST_RUN=$$-$(date +%s)
export HOLDFAST_TEST_RUN

# What must not stay behind: loop devices, mounts, processes.
loops() { losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | sort; }
mounts() { sort /proc/self/mounts; }
# Processes of this run, and tools in a room (whose environment is their own) that lost their
# parent. This shell has the mark by right, and so has the one that looks.
processes() {
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
        if grep -zqsx "HOLDFAST_TEST_RUN=$HOLDFAST_TEST_RUN" "$proc/environ" ||
            { grep -zqsx '/export/disk' "$proc/cmdline" && grep -qs '^PPid:[[:space:]]1$' "$proc/status"; }; then
            echo "  process $pid $(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null)"
        fi
    done
}
loops_before=$(loops) mounts_before=$(mounts)

# A loop device is given back a moment after its last user has gone: ask again for a while.
nothing_left() {
    local left _
    for _ in $(seq 20); do
        left=$(
            comm -13 <(echo "$loops_before") <(loops) | sed 's/^/  loop device /'
            comm -13 <(echo "$mounts_before") <(mounts) | sed 's/^/  mount /'
            processes
        )
        [ -n "$left" ] || return 0
        sleep 0.5
    done
    echo "left behind:" >&2
    echo "$left" >&2
    return 1
}

began=$SECONDS stage='' stage_began=0 summary=()
stage() {
    local code=0
    stage=$1 stage_began=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$stage" "$*"
    "$@" || code=$?
    summary+=("$(printf '%-10s %4d s' "$stage" $((SECONDS - stage_began)))")
    [ $code = 0 ] || { echo "=== $stage FAILED with exit code $code" >&2; exit 1; }
}

export RUST_BACKTRACE=1
stage format cargo fmt --check
stage lints cargo clippy --locked --all-targets -- -D warnings
stage layers cargo test --locked --test layers
stage tests cargo test --locked
stage prove scripts/prove.sh --fast
stage mutations scripts/mutate.sh
stage demo scripts/demo.sh
stage remains nothing_left

printf '\n=== all passed in %d s\n' $((SECONDS - began))
printf '  %s\n' "${summary[@]}"
