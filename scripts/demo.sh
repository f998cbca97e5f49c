#!/bin/bash
# Shows the main job on a disk image full of generated mail, in a private directory:
#   scripts/demo.sh [--keep] [--messages N]
# --keep leaves the directory behind. Everything that is claimed is checked; the script stops with
# an error where anything is not as told. Root is not needed, except to install what is missing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

keep='' messages=2000
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        --messages) messages=${2:?"--messages needs a number"}; shift ;;
        *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

need e2fsck:e2fsprogs resize2fs:e2fsprogs debugfs:e2fsprogs perl:perl-base awk:mawk strace:strace \
    sgdisk:gdisk cmp:diffutils mount:mount unshare:util-linux
need_rust
holdfast=$(build_release)
[ -x "$holdfast" ] || die "the build left no program at $holdfast"

# Not below /tmp: a journal is refused where a reboot would lose it.
dir=$(mktemp -d /var/tmp/holdfast-demo.XXXXXX)
step='making the image'
tidy() {
    local code=$?
    [ $code = 0 ] || echo "demo.sh: FAILED while $step" >&2
    if [ -n "$keep" ]; then echo "kept: $dir"; else rm -rf "$dir"; fi
    return $code
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP

# Where the mail's file system lies in the image, as images/make places it.
readonly OFFSET=$((3 << 20))
sha256='^[0-9a-f]\{64\} '
cd "$dir"
mkdir bin state mountpoint
ln -s "$holdfast" bin/holdfast
PATH="$dir/bin:$PATH"
state=(--state-dir state)

bold='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

scene() { step=$1; printf '\n%s== %s%s\n\n' "$bold" "$1" "$plain"; }
say() { printf '%s\n' "$@"; }

# expect CODE COMMAND …: shows the command and what it says, and insists on its exit code. Both
# also go to the file `said`.
expect() {
    local wanted=$1 code=0
    shift
    printf '%s$ %s%s\n' "$bold" "$*" "$plain"
    "$@" >said 2>&1 || code=$?
    sed 's/^/    /' said
    printf '    [exit code %s]\n\n' "$code"
    [ "$code" = "$wanted" ] || die "$1: exit code $code instead of $wanted"
}

saying() { grep -q -- "$1" said || die "\`$1' is not in the answer"; }

same() { cmp "$1" "$2" || die "$1 and $2 differ"; say "$1 and $2: the same, byte for byte."; }

copy() { cp --sparse=always "$1" "$2"; }

# Every file of the mail partition: name, kind, mode, owner, links, size, time, target of a link;
# then the SHA-256 of its content. Read by the kernel where we may mount, else by debugfs: never
# by holdfast. The mount is private, so that it cannot stay behind.
inventory() {
    local image=$1 list=$2
    # shellcheck disable=SC2016 # the inner shell's variables
    if is_root && unshare --mount bash -c '
        mount -o "ro,loop,offset=$2" "$1" mountpoint && cd mountpoint || exit 9
        find . -printf "%p %y %m %U:%G %n %s %T@ %l\n" | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum
    ' - "$image" $OFFSET >"$list" 2>mount.log; then
        how='mode, owner, size and time'
        return
    fi
    how='kind and size'
    mkdir tree
    debugfs -R 'rdump / tree' "$image?offset=$OFFSET" >mount.log 2>&1
    {
        (cd tree && find . -mindepth 1 ! -type d -printf '%p %y %s %l\n' | sort)
        (cd tree && find . -type f -print0 | sort -z | xargs -0 sha256sum)
    } >"$list"
    chmod -R u+w tree
    rm -rf tree
}

say "This takes about a minute. Directory: $dir"
"$root/images/make" mail-gpt disk.img --messages "$messages"
copy disk.img before.img

scene 'A mail store, and a disk with room behind it'
expect 0 holdfast check disk.img --partition 2 "${state[@]}"
saying 'nothing is wrong with it'

scene 'What would happen? Nothing is written'
expect 0 holdfast plan grow disk.img --partition 2 "${state[@]}"
saying 'it can be done; nothing has been written'
same disk.img before.img

scene 'Grow it'
inventory disk.img files.before
expect 0 holdfast grow disk.img --partition 2 --yes "${state[@]}"
saying 'all equal'

scene 'Is every message the same? Asked of others, not of holdfast'
inventory disk.img files.after
cmp files.before files.after || die 'a file is not what it was'
say "$(grep -c "$sha256" files.after) files have the same SHA-256; \
$(grep -vc "$sha256" files.after) names the same $how."
[ "$(grep -c "$sha256" files.after)" -ge "$messages" ] || die 'there are too few files'
say
expect 0 e2fsck -fn "disk.img?offset=$OFFSET"
expect 0 sgdisk -v disk.img
saying 'No problems found'

scene 'The same command again: there is nothing left to do'
copy disk.img after.img
expect 0 holdfast grow disk.img --partition 2 --yes "${state[@]}"
saying 'no change'
same disk.img after.img

scene 'A resizer with a bug'
copy before.img disk.img
victim=$(sed -n '/^\.\(.*\/Maildir\/cur\/[^ ]*\) f .*/{s//\1/p;q}' files.before)
block=$(debugfs -R "blocks \"$victim\"" "disk.img?offset=$OFFSET" 2>debugfs.log | cut -d' ' -f1)
[ "$block" -gt 0 ] || die "no block of $victim was found"
mkdir buggy
cat >buggy/resize2fs <<BUGGY
#!/bin/bash
# Does what it should, loses one block of one message, and says that all is well.
"$(command -v resize2fs)" "\$@" || exit
for file; do
    [ ! -f "\$file" ] || dd if=/dev/zero of="\$file" bs=4096 seek=$block count=1 conv=notrunc status=none
done
BUGGY
chmod +x buggy/resize2fs
say 'This one blanks one message and exits with 0:' "    $victim" ''
PATH="$dir/buggy:$PATH" expect 4 holdfast grow disk.img --partition 2 --yes "${state[@]}"
saying "${victim##*/}"
say 'e2fsck, run on the same result, had seen nothing:' ''
log=$(for file in state/*/*-e2fsck.log; do echo "$file"; done | xargs ls -t | sed -n 1p)
expect 0 tail -n 3 "$log"
saying 'exited with 0'
same disk.img before.img

scene 'The power goes in the middle of the apply'
say 'strace kills holdfast with SIGKILL at its seventh write to the disk. (A real power cut also' \
    'loses and tears what was not flushed yet: the tests simulate that.)' ''
# bash reports the kill; whoever reads this has been told.
{ expect 137 strace -o strace.log -P "$dir/disk.img" -e trace=pwrite64 \
    -e inject=pwrite64:signal=SIGKILL:when=7 \
    holdfast grow disk.img --partition 2 --yes "${state[@]}"; } 2>/dev/null
if cmp -s disk.img before.img; then die 'nothing had been written'; fi
if cmp -s disk.img after.img; then die 'everything had been written'; fi
say "$(cmp -l disk.img before.img | wc -l) bytes have changed; it is neither the old nor the new file system." ''
expect 0 holdfast status "${state[@]}"
saying 'HOT: recover'
say 'Until it is recovered, nobody gets in: not fsck at boot, not mount, not a second holdfast.' ''
copy disk.img cut.img
expect 8 e2fsck -p "disk.img?offset=$OFFSET"
if is_root && losetup --find >/dev/null 2>&1; then
    expect 32 unshare --mount mount -o "loop,offset=$OFFSET" disk.img mountpoint
fi
expect 8 holdfast grow disk.img --partition 2 --yes "${state[@]}"
same disk.img cut.img

scene 'Recover'
expect 0 holdfast recover "${state[@]}"
saying 'as before the change'
same disk.img before.img

scene 'Second thoughts: grow it, and roll that back'
expect 0 holdfast grow disk.img --partition 2 --yes --quiet "${state[@]}"
id=$(sed -n 's/^ *transaction *\([0-9a-f]\{32\}\)$/\1/p' said)
expect 0 holdfast rollback "$id" --yes "${state[@]}"
same disk.img before.img
expect 0 holdfast status "${state[@]}"

printf '%sAll of it was as told.%s\n' "$bold" "$plain"
