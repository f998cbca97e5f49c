#!/bin/bash
# Leaves out each barrier, each checksum and each comparison of the commit in turn, and insists that
# a test fails for it: scripts/mutate.sh [PATTERN]
# A test suite that cannot tell is a defect. The barriers are found by their comments, so that a
# new one is tried by itself. Works on a copy of the tree below target/mutants.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
need perl:perl-base rsync:rsync
need_rust

# Where barriers are that the simulator sees; the others are the host's own (`sync_all`).
barrier_files=(src/journal/*.rs src/snapshot/format.rs)

# FILE | what it is | perl substitution, which must change exactly one place
checks=(
    'src/journal/file.rs|the CRC of a record|s/if crc32fast::hash\(&bytes\) != crc/if false \&\& $&/; s/if false && if /if false \&\& /'
    'src/journal/file.rs|the hash in the commit record|s/if (hash_file\()/if false \&\& $1/'
    'src/journal/format.rs|the CRC of header, commit record and slots|s/(block\.len\(\) == BLOCK as usize) && crc32fast.*/$1 \&\& end > 0/'
    'src/journal/format.rs|the CRC of an index entry|s/if (crc32fast::hash\(&entry)/if false \&\& $1/'
    'src/snapshot/format.rs|the root hash of a manifest|s/if (blake3::hash\(body\))/if false \&\& $1/'
    'src/journal/apply.rs|reading back what was written|s/if !wrong\.is_empty\(\)/if false \&\& !wrong.is_empty()/g'
    'src/journal/apply.rs|reading back gate and superblock|s/if (differs\(&view, extent, content\))/if false \&\& $1/'
    'src/journal/apply.rs|that a standing gate is left alone|s/if standing != Superblock::Gated/if true/'
    'src/journal/recover.rs|comparing the rest with the snapshot|s/if wrong\.is_empty\(\) \{/if true {/'
    'src/journal/recover.rs|that nobody changed the table behind the gate|s/if !strange\.is_empty\(\)/if false/'
    'src/journal/recover.rs|that the length is one of the two|s/if !standing\.length_fits\(self\)/if false/'
)

copy=target/mutants/tree
export CARGO_TARGET_DIR="$root/target/mutants/build"
mkdir -p "$copy"
# By content, and without times: an older time than that of a mutant's build would hide a change.
rsync -rlp --checksum --delete --exclude target --exclude .git ./ "$copy/"

# The tests that must notice.
trial() {
    (cd "$copy" && timeout 900 cargo test --locked --quiet --lib --test power_cuts -- journal snapshot \
        p1_ p2_ p3_ p4_ a_ an_ the_ without_ every_ lists_ >"$root/target/mutants/log" 2>&1)
}

echo 'without a mutation all must pass'
trial || { tail -n 40 target/mutants/log; die 'the tests fail without any mutation'; }

tried=0 survived=0
# attempt FILE WHAT SUBSTITUTION
attempt() {
    local file=$1 what=$2 change=$3
    cp "$file" "$copy/$file"
    perl -0pi -e "$change" "$copy/$file"
    if cmp -s "$file" "$copy/$file"; then
        die "the mutation of $what changes nothing in $file: mend the list in $0"
    fi
    tried=$((tried + 1))
    if trial; then
        survived=$((survived + 1))
        printf 'SURVIVED  %s: %s\n' "$file" "$what"
    elif grep -q '^error' target/mutants/log && ! grep -q 'test result\|panicked' target/mutants/log; then
        tail -n 30 target/mutants/log
        die "the mutation of $what does not compile"
    else
        printf 'noticed   %s: %s (%s)\n' "$file" "$what" \
            "$(sed -n "s/^thread '\([^']*\)'.*panicked.*/\1/p" target/mutants/log | sort -u | head -n 1)"
    fi
    cp "$file" "$copy/$file"
}

for file in "${barrier_files[@]}"; do
    count=$(grep -c '// Barrier:' "$file" || true)
    for ((n = 1; n <= count; n++)); do
        line=$(grep -n '// Barrier:' "$file" | sed -n "${n}s/:.*//p")
        what="barrier in line $line:$(sed -n "${line}s/.*Barrier://p" "$file")"
        [[ "$file $what" == *${1:-}* ]] || continue
        attempt "$file" "$what" \
            "my \$n = 0; s{(// Barrier:.*?)[\\w.]+\\.flush\\(\\)}{++\$n == $n ? \"\$1Ok::<(), std::io::Error>(())\" : \$&}gse"
    done
done
for check in "${checks[@]}"; do
    IFS='|' read -r file what change <<<"$check"
    [[ "$file $what" == *${1:-}* ]] || continue
    attempt "$file" "$what" "$change"
done

echo "$((tried - survived)) passed, $survived failed"
[ "$survived" = 0 ]
