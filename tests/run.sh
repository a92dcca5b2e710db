#!/usr/bin/env bash
# Passes all tests from a clean clone: sets the machine up, then format, lints, build, tests, docs.
# Set-up installs only what the build cannot do without: a C compiler (for the bundled SQLite),
# rustfmt and clippy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUST_MINIMUM=1.95

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

ensure_c_compiler() {
    command -v cc >/dev/null && return
    local packages=(gcc libc6-dev)
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
    else
        die "no C compiler (cc) for the bundled SQLite; install one, on Debian: sudo apt-get install ${packages[*]}"
    fi
}

ensure_rust() {
    command -v cargo >/dev/null || die "no cargo; install Rust $RUST_MINIMUM or newer: https://rustup.rs"
    local version
    version=$(rustc --version | cut -d' ' -f2)
    if ! printf '%s\n' "$RUST_MINIMUM" "$version" | sort --check=quiet --version-sort; then
        die "Rust $version is too old; install $RUST_MINIMUM or newer, for example: rustup update stable"
    fi
    local component
    for component in fmt:rustfmt clippy:clippy; do
        cargo "${component%%:*}" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || die "no ${component##*:}; install it beside your Rust"
        rustup component add "${component##*:}"
    done
}

section 'set-up'
ensure_rust
ensure_c_compiler
rustc --version
locked=()
if [ -f Cargo.lock ]; then
    locked=(--locked)
elif [ -n "${LANDFALL_CI:-}" ]; then
    die 'Cargo.lock is missing; commit it'
fi

section 'format'
cargo fmt --all --check

section 'lints'
cargo clippy "${locked[@]}" --workspace --all-targets -- -D warnings

# With --tests, so that the programs get the same features as the tests and nothing is built twice;
# the tests then find the programs in the target folder.
section 'build'
cargo build "${locked[@]}" --workspace --bins --tests

# --show-output: skips, seeds and figures that passing tests print are part of the result.
section 'tests'
cargo test "${locked[@]}" --workspace --no-fail-fast -- --show-output

section 'docs'
RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc "${locked[@]}" --workspace --no-deps

section 'all passed'
