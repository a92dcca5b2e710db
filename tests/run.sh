#!/usr/bin/env bash
# Passes all tests from a clean clone: sets the machine up, then format, lints, build, tests, docs.
# Set-up installs only what the tests cannot do without: a C compiler (for the bundled SQLite),
# rustfmt and clippy, the Node packages of the real automerge-repo clients, and Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUST_MINIMUM=1.95
NODE_MINIMUM=20

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

install() {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

ensure_c_compiler() {
    command -v cc >/dev/null && return
    local packages=(gcc libc6-dev)
    if can_install; then
        install "${packages[@]}"
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

ensure_node() {
    local what="Node $NODE_MINIMUM or newer with npm, for the automerge-repo clients: https://nodejs.org"
    command -v node >/dev/null && command -v npm >/dev/null || die "no node or npm; install $what"
    local major
    major=$(node -p 'process.versions.node.split(".")[0]')
    [ "$major" -ge "$NODE_MINIMUM" ] || die "Node $(node --version) is too old; install $what"
}

# Without a browser its tests are skipped; .ci/run then counts the run as failed.
ensure_chromium() {
    [ -x "${LANDFALL_CHROMIUM:-/usr/bin/chromium}" ] && return
    if can_install; then
        install chromium
    else
        printf 'SKIPPED (needs root): the browser tests; on Debian: sudo apt-get install chromium\n'
    fi
}

# Exactly what the lock file names, and none of the packages' install scripts.
node_packages() { npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error; }

section 'set-up'
ensure_rust
ensure_c_compiler
ensure_node
ensure_chromium
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

# The licences and bans are house tests as well; advisories need this program and its database.
section 'dependencies'
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --workspace check
else
    printf 'SKIPPED: cargo-deny is not installed (cargo install --locked cargo-deny)\n'
fi

# With --tests, so that the programs get the same features as the tests and nothing is built twice;
# the tests then find the programs in the target folder.
section 'build'
cargo build "${locked[@]}" --workspace --bins --tests

# --show-output: skips, seeds and figures that passing tests print are part of the result.
section 'tests'
cargo test "${locked[@]}" --workspace --no-fail-fast -- --show-output

# The clients that people use, unchanged: automerge-repo in Node and in a browser.
section 'automerge-repo clients'
node_packages tests/interop
npm test --prefix tests/interop

# The page that the relay serves is what its sources make, byte for byte.
section 'playground'
node_packages server/playground
node server/playground/check.mjs
npm test --prefix server/playground

section 'docs'
RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc "${locked[@]}" --workspace --no-deps

section 'all passed'
