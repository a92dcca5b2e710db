//! The parts of a relay's URL beside its address, and servers at the URL that are no relays.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::{ConnectError, LinkOptions, Options, Status, Store};

#[test]
fn connect_fails_if_the_urls_space_is_not_open() {
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("default").unwrap();
    let url = "ws://127.0.0.1:1/spaces/team";
    let Err(ConnectError::BadUrl { what, .. }) = store.connect(url) else { panic!() };
    assert!(what.contains("`team`") && what.contains("open it first"), "{what}");
    assert_eq!(LinkOptions::new(url).space().unwrap(), Some("team".parse().unwrap()));
    assert_eq!(LinkOptions::new("ws://127.0.0.1:1").space().unwrap(), None);
    store.space("team").unwrap();
    store.connect(url).unwrap();
    store.close().unwrap();
}

/// Another program or another path is no relay; a busy server may be one.
#[test]
fn a_server_that_is_not_a_relay_is_reported_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    // The thread ends with the test's process: it accepts connections until then.
    std::thread::spawn(move || {
        let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        let moved = "HTTP/1.1 301 Moved\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n";
        let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        for answer in [busy, missing, busy, moved, "SSH-2.0-x\r\n\r\n", busy, ""].iter().cycle() {
            let (mut stream, _) = listener.accept().unwrap();
            // One read holds a small request whole.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let store = Store::in_memory(Options::default()).unwrap();
    let quickly = Duration::from_millis(10);
    let options =
        LinkOptions { reconnect_first: quickly, reconnect_most: quickly, ..LinkOptions::new(&url) };
    store.connect(options).unwrap();
    for (says, wrong) in [
        ("503", false),
        ("404", true),
        ("it redirects to /there", true),
        ("is not a Landfall relay", true),
        ("the handshake with", false),
    ] {
        let is_reported = |status: &Status| {
            let why = status.last_error.as_deref().unwrap_or_default();
            why.contains(says) && status.wrong_url == wrong
        };
        store.watch().until_blocking(is_reported).unwrap();
    }
    // A finding about one URL does not apply to another.
    let wrong = |status: &Status| status.wrong_url;
    store.watch().until_blocking(wrong).unwrap();
    store.connect("ws://127.0.0.1:1").unwrap();
    store.watch().until_blocking(|status| !status.wrong_url).unwrap();
    store.close().unwrap();
}
