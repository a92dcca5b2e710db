//! Where libraries that do I/O may be named: only in the modules that perform the I/O.

use std::collections::BTreeMap;

use super::finding::{Finding, assert_found, assert_none};
use super::tree::Tree;

/// Identifiers that within `within` may occur only in files whose path starts with one of `homes`.
struct Room {
    names: &'static [&'static str],
    within: &'static str,
    homes: &'static [&'static str],
    remedy: &'static str,
}

const ROOMS: &[Room] = &[
    Room {
        names: &["Automerge", "AutoCommit"],
        within: "server/src/",
        homes: &[],
        remedy: "the relay never builds a document: answer from the log and the change index",
    },
    Room {
        names: &["rusqlite"],
        within: "engine/src/",
        homes: &["engine/src/store"],
        remedy: "add an operation for it to `engine::store`",
    },
    Room {
        names: &["rusqlite"],
        within: "server/src/",
        homes: &["server/src/store"],
        remedy: "add an operation for it to `server::store`",
    },
    Room {
        names: &["tokio_tungstenite", "tungstenite"],
        within: "engine/src/",
        homes: &["engine/src/link"],
        remedy: "let `engine::link` hold the socket",
    },
    Room {
        names: &["axum", "hyper", "hyper_util"],
        within: "server/src/",
        homes: &[
            "server/src/http",
            "server/src/connection",
            "server/src/native",
            "server/src/automerge_repo",
            "server/src/serve",
            "server/src/identity/http_client",
            "server/src/operators",
            "server/src/identity/tests",
        ],
        remedy: "keep HTTP and sockets in the http, connection, native, automerge_repo and serve modules, \
                 and fetching in identity/http_client",
    },
];

fn outside_their_rooms(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for room in ROOMS {
        let at_home = |path: &str| room.homes.iter().any(|home| path.starts_with(home));
        let files = tree.sources().iter().filter(|source| source.path().starts_with(room.within));
        for source in files.filter(|source| !at_home(source.path())) {
            for (line, name) in source.names(room.names) {
                let what = format!("`{name}` must not be used here");
                findings.push(Finding::new(source.path(), line, what, room.remedy));
            }
        }
    }
    findings
}

/// The demo embeds a relay for its tour; one module suffices to start it.
fn relay_in_the_demo(tree: &Tree) -> Vec<Finding> {
    let mut naming: BTreeMap<&str, usize> = BTreeMap::new();
    for source in tree.sources().iter().filter(|s| s.path().starts_with("client-demo/src/")) {
        if let Some((line, _)) = source.names(&["landfall_relay"]).next() {
            naming.insert(source.path(), line);
        }
    }
    let Some((first, _)) = naming.pop_first() else { return Vec::new() };
    let finding = |(path, line)| {
        let what = format!("`landfall_relay` is used here and in {first}");
        Finding::new(path, line, what, "keep it in the one module that runs a relay for the tour")
    };
    naming.into_iter().map(finding).collect()
}

#[test]
fn libraries_are_used_only_in_their_modules() {
    assert_none(outside_their_rooms(Tree::repository()));
}

#[test]
fn only_one_module_of_the_demo_uses_the_relay() {
    assert_none(relay_in_the_demo(Tree::repository()));
}

#[test]
fn a_library_used_outside_its_modules_is_found() {
    let tree = Tree::sample(&[
        ("engine/src/store/log.rs", "use rusqlite::Connection;"),
        ("engine/src/document.rs", "\nuse rusqlite::Connection;"),
        ("engine/src/status.rs", "fn a() -> tokio_tungstenite::T { b() }"),
        ("server/src/hub.rs", "// Automerge\nfn a() { automerge::AutoCommit::new() }"),
        ("server/src/metrics.rs", "use axum::Router;\nfn b() { rusqlite::c() }"),
        ("server/src/connection/socket.rs", "use axum::extract::ws;"),
    ]);
    let expected = [
        "engine/src/document.rs:2",
        "engine/src/status.rs:1",
        "server/src/hub.rs:2",
        "server/src/metrics.rs:1",
        "server/src/metrics.rs:2",
    ];
    assert_found(outside_their_rooms(&tree), &expected);
}

#[test]
fn a_second_module_that_uses_the_relay_is_found() {
    let tree = Tree::sample(&[
        ("client-demo/src/relay.rs", "use landfall_relay::serve;"),
        ("client-demo/src/tour.rs", "\n\nfn a() { landfall_relay::serve() }"),
    ]);
    assert_found(relay_in_the_demo(&tree), &["client-demo/src/tour.rs:3"]);
}
