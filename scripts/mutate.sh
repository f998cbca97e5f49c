#!/bin/bash
# Leaves out each barrier, each checksum and each comparison of the commit in turn, and insists that
# a test fails for it: scripts/mutate.sh [PATTERN]
# A test suite that cannot tell is a defect. The barriers are found by their comments, so that a
# new one is tried by itself. Works on a copy of the tree below target/mutants, in which every
# mutation stands behind a switch: one build, and HOLDFAST_MUTANT says which is on.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"
need perl:perl-base rsync:rsync
need_rust

# Where barriers are that the simulator sees; the others are the host's own (`sync_all`).
barrier_files=(src/journal/*.rs src/snapshot/format.rs)

# FILE | what it is | perl substitution, which must change exactly one place; MUT is the switch
checks=(
    'src/journal/file.rs|the CRC of a record|s/if (crc32fast::hash\(&bytes\) != crc)/if !MUT \&\& $1/'
    'src/journal/file.rs|the hash in the commit record|s/if (hash_file\()/if !MUT \&\& $1/'
    'src/journal/format.rs|the CRC of header, commit record and slots|s/(block\.len\(\) == BLOCK as usize) && (crc32fast.*)/$1 \&\& (MUT || $2)/'
    'src/journal/format.rs|the CRC of an index entry|s/if (crc32fast::hash\(&entry)/if !MUT \&\& $1/'
    'src/snapshot/format.rs|the root hash of a manifest|s/if (blake3::hash\(body\))/if !MUT \&\& $1/'
    'src/journal/apply.rs|reading back what was written|s/if !wrong\.is_empty\(\)/if !MUT \&\& !wrong.is_empty()/g'
    'src/journal/apply.rs|reading back gate and superblock|s/if (differs\(&view, extent, content\))/if !MUT \&\& $1/'
    'src/journal/apply.rs|that a standing gate is left alone|s/if standing != Superblock::Gated/if MUT || standing != Superblock::Gated/'
    'src/journal/apply.rs|that a right copy of the table is not written again|s/records\.retain\(\|r\| wrong/records.retain(|r| MUT || wrong/'
    'src/journal/apply.rs|reading back a copy of the table before the other one is written|s/if any && is_table/if !MUT \&\& any \&\& is_table/'
    'src/journal/apply.rs|that all of the target was read back|s/if !self\.length_is\(len_bytes, side\)/if !MUT \&\& !self.length_is(len_bytes, side)/'
    'src/journal/apply.rs|that a gate which cannot be read is left alone|s/if standing == Superblock::Unreadable \{/if !MUT \&\& standing == Superblock::Unreadable {/'
    'src/journal/apply.rs|that what is in use and cannot be read is no proof|s/if !lost\.is_empty\(\) \{\n\s*return Err\(unreadable/if !MUT \&\& !lost.is_empty() { return Err(unreadable/'
    'src/journal/recover.rs|comparing the rest with the snapshot|s/if wrong\.is_empty\(\) \{/if MUT || wrong.is_empty() {/'
    'src/journal/recover.rs|that what cannot be read is compared only when asked|s/if !work\.proof\.pass_over/if !MUT \&\& !work.proof.pass_over/'
    'src/journal/recover.rs|that nobody changed the table behind the gate|s/if !strange\.is_empty\(\)/if !MUT \&\& !strange.is_empty()/'
    'src/journal/recover.rs|that the length is one of the two|s/if !standing\.length_fits\(self\)/if !MUT \&\& !standing.length_fits(self)/'
    'src/journal/recover.rs|that the superblock and the rest agree|s/_ if explained => \{/_ if explained \&\& MUT => toward, _ if explained => {/'
    'src/journal/standing.rs|that an unreadable superblock is torn|s/let patient = Patient::new\(target\);\n    let now = read_padded\(&patient/let patient = Patient::new(target); let now = read_padded(if MUT { target } else { &patient }/'
    'src/journal/standing.rs|that an unreadable record is neither|s/let bytes = read_padded\(&patient, span/let bytes = read_padded(if MUT { target } else { &patient }, span/'
    'src/journal/file.rs|that an unreadable state slot is an unused one|s/if is_unreadable\(&source\) =>/if !MUT \&\& is_unreadable(\&source) =>/'
)

copy=target/mutants/tree log=$root/target/mutants/log
export CARGO_TARGET_DIR="$root/target/mutants/build"
mkdir -p "$copy"
# By content, and without times: an older time than that of a mutant's build would hide a change.
rsync -rlp --checksum --delete --exclude target --exclude .git ./ "$copy/"

names=()
# add FILE WHAT SUBSTITUTION: puts the mutation behind the next switch.
add() {
    local file=$1 what=$2 change=$3
    [[ "$file $what" == *${pattern:-}* ]] || return 0
    names+=("$file: $what")
    cp "$copy/$file" "$log"
    perl -0pi -e "${change//MUT/crate::mutant(${#names[@]})}" "$copy/$file"
    ! cmp -s "$log" "$copy/$file" ||
        die "the mutation of $what changes nothing in $file: mend the list in $0"
}

pattern=${1:-}
for check in "${checks[@]}"; do
    IFS='|' read -r file what change <<<"$check"
    add "$file" "$what" "$change"
done
for file in "${barrier_files[@]}"; do
    count=$(grep -c '// Barrier:' "$file" || true)
    for ((n = 1; n <= count; n++)); do
        line=$(grep -n '// Barrier:' "$file" | sed -n "${n}s/:.*//p")
        what="barrier in line $line:$(sed -n "${line}s/.*Barrier://p" "$file")"
        add "$file" "$what" \
            "my \$n = 0; s{(// Barrier:.*?)([\\w.]+\\.flush\\(\\))}{++\$n == $n ? \"\$1(if MUT { Ok::<(), std::io::Error>(()) } else { \$2 })\" : \$&}gse"
    done
done
cat >>"$copy/src/lib.rs" <<'RUST'

/// Whether this mutation is on.
#[doc(hidden)]
pub fn mutant(number: u32) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let on = ON.get_or_init(|| std::env::var("HOLDFAST_MUTANT").ok());
    *on == Some(number.to_string())
}
RUST

began=$SECONDS
(cd "$copy" && cargo test --locked --lib --test power_cuts --no-run) >"$log" 2>&1 ||
    { tail -n 40 "$log"; die 'the mutants do not compile'; }
mapfile -t programs < <(sed -n 's/.*Executable.*(\(.*\))$/\1/p' "$log")
# Most mutations are noticed by the cuts.
mapfile -t programs < <(printf '%s\n' "${programs[@]}" | sort -r)
[ ${#programs[@]} = 2 ] || { cat "$log"; die 'there are not two test programs'; }
echo "built in $((SECONDS - began)) s"

# The tests that must notice.
trial() {
    local program
    for program in "${programs[@]}"; do
        (cd "$copy" && timeout 300 "$program" --quiet journal snapshot errors:: \
            p1_ p2_ p3_ p4_ a_ an_ the_ without_ every_ lists_ what_) >"$log" 2>&1 || return 1
    done
}

trial || { tail -n 40 "$log"; die 'the tests fail without any mutation'; }

survived=0
for ((n = 1; n <= ${#names[@]}; n++)); do
    if HOLDFAST_MUTANT=$n trial; then
        survived=$((survived + 1))
        printf 'SURVIVED  %s\n' "${names[n - 1]}"
    else
        printf 'noticed   %s (%s)\n' "${names[n - 1]}" \
            "$(sed -n "s/^thread '\([^']*\)'.*panicked.*/\1/p" "$log" | sort -u | head -n 1)"
    fi
done

echo "$((${#names[@]} - survived)) passed, $survived failed, $((SECONDS - began)) s"
[ "$survived" = 0 ]
