# What the scripts share. To be sourced by bash, with `set -euo pipefail` on.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Debian keeps its disk tools where an ordinary user does not look.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" LC_ALL=C.UTF-8

die() { echo "${0##*/}: $*" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# need COMMAND:PACKAGE …: installs the packages of the commands that are missing. Without root it
# says what is missing, and stops.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if ! is_root; then
        die "these Debian packages are missing: ${missing[*]}; as root: apt-get install ${missing[*]}"
    fi
    command -v apt-get >/dev/null || die "these Debian packages are missing: ${missing[*]}"
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || die "${pair%%:*} is still missing after the installation"
    done
}

# The toolchain, not older than Cargo.toml asks for. `need_rust fmt clippy` asks for these as well.
need_rust() {
    [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    # Crates with a little C or assembler in them, and the linker.
    need cc:gcc cc:libc6-dev
    local way='see https://rustup.rs'
    command -v cargo >/dev/null || die "there is no Rust toolchain: $way"
    local wanted have part
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
    have=$(cd "$root" && rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        die "Rust $have is too old, $wanted is needed: rustup update"
    for part in "$@"; do
        (cd "$root" && cargo "$part" --version >/dev/null 2>&1) ||
            die "cargo $part is missing: rustup component add ${part/fmt/rustfmt}"
    done
}

# Builds the release binary and says where it is.
build_release() {
    (cd "$root" && cargo build --release --locked >&2)
    (cd "$root" && cargo metadata --format-version 1 --no-deps --locked) |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1\/release\/holdfast/p'
}
