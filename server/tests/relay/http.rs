//! HTTP: which requests are accepted, the operators' pages, and which connections become sessions.

use landfall_protocol::frame::SUBPROTOCOL;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{Author, Client, Relay, request, soon};

/// The status that rejects a WebSocket request.
async fn refused(request: tokio_tungstenite::tungstenite::handshake::client::Request) -> u16 {
    match soon(connect_async(request)).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        Ok(_) => panic!("the request became a session"),
        Err(other) => panic!("no answer: {other}"),
    }
}

#[tokio::test]
async fn operators_pages_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    assert_eq!(relay.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(relay.get("/readyz").await, (200, "ready\n".to_owned()));
    let (status, body) = relay.get("/").await;
    assert_eq!(status, 200);
    assert!(body.contains("Landfall relay"), "{body}");
    assert_eq!(relay.get("/nothing-here").await.0, 404);
    let mut client = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let push = client.push(document.document, &document.changes(2)).await;
    client.acked(push).await;
    client.entries(2).await;
    let (_, metrics) = relay.get("/metrics").await;
    for line in [
        "landfall_relay_sessions 1",
        "landfall_relay_ready 1",
        "landfall_relay_entries_in_total 2",
        "landfall_relay_commits_total{outcome=\"durable\"} 1",
        "landfall_relay_commit_seconds_count 1",
        "landfall_relay_hub_queue 0",
        "landfall_relay_in_flight_bytes 0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    for name in ["bytes_in_total", "bytes_out_total"] {
        assert!(relay.metric(&format!("landfall_relay_{name}")).await > 100.0, "{name}");
    }
    relay.until_metric("landfall_relay_entries_out_total", |count| count == 2.0).await;
    relay.until_metric("landfall_relay_fan_out_seconds_count", |count| count == 1.0).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn browsers_pages_are_rejected_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        options.allow_origins = vec!["https://app.example".to_owned()];
    })
    .await;
    let with_origin = |origin: &str| {
        let mut request = request(&relay, Some(SUBPROTOCOL));
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request
    };
    assert_eq!(refused(with_origin("https://evil.example")).await, 403);
    assert_eq!(refused(with_origin("null")).await, 403);
    soon(connect_async(with_origin("https://app.example"))).await.unwrap();
    soon(connect_async(with_origin("http://localhost:5173"))).await.unwrap();
    soon(connect_async(with_origin(&format!("http://{}", relay.address)))).await.unwrap();
    let (status, body) = relay
        .ask("GET /metrics HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(status, 403);
    assert!(body.contains("--allow-origin"), "{body}");
    assert_eq!(relay.metric("landfall_relay_requests_refused_total{reason=\"origin\"}").await, 3.0);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_foreign_host_name_is_rejected_in_open_mode() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let ask = "GET /healthz HTTP/1.1\r\nhost: rebound.example:7600\r\nconnection: close\r\n\r\n";
    let (status, body) = relay.ask(ask).await;
    assert_eq!(status, 421);
    assert!(body.contains("rebound.example") && body.contains("--insecure-open"), "{body}");
    let mut rebound = request(&relay, Some(SUBPROTOCOL));
    rebound.headers_mut().insert("host", "rebound.example".parse().unwrap());
    assert_eq!(refused(rebound).await, 421);
    let old = "GET /healthz HTTP/1.0\r\n\r\n";
    assert_eq!(relay.ask(old).await.0, 421, "a missing name is not a loopback name");
    relay.stop().await.unwrap();

    // A relay open to others is as much a target of DNS rebinding.
    let open = Relay::start_with(&folder, |options| {
        options.insecure_open = true;
        options.allow_hosts = vec!["relay.example".to_owned()];
    })
    .await;
    for path in ["/healthz", "/metrics", "/playground/documents?space=notes"] {
        let ask = |host: &str| {
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
        };
        let (status, body) = open.ask(&ask("rebound.example:7600")).await;
        assert!(status == 421 && body.contains("--allow-host"), "{path}: {status} {body}");
        for host in ["10.0.0.7:7600", "relay.example", "localhost"] {
            assert_eq!(open.ask(&ask(host)).await.0, 200, "{path} at {host}");
        }
    }
    open.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_native_subprotocol_or_none_becomes_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (_, response) = soon(connect_async(request(&relay, None))).await.unwrap();
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    assert_eq!(refused(request(&relay, Some("landfall.v999"))).await, 501);
    let offered = request(&relay, Some("other, landfall.v1"));
    let (_, response) = soon(connect_async(offered)).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], SUBPROTOCOL);
    let mut elsewhere = request(&relay, Some(SUBPROTOCOL));
    *elsewhere.uri_mut() = format!("ws://{}/sync", relay.address).parse().unwrap();
    assert_eq!(refused(elsewhere).await, 404);
    let post =
        "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(relay.ask(post).await.0, 405);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_too_many_is_rejected_and_operators_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| options.connections = 2).await;
    let first = Client::at_start(&relay).await;
    let second = Client::at_start(&relay).await;
    assert_eq!(relay.get("/").await.0, 503);
    assert_eq!(refused(request(&relay, Some(SUBPROTOCOL))).await, 503);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(relay.get(path).await.0, 200, "{path}");
    }
    drop(first);
    until_let_in(&relay).await;
    drop(second);
    relay.stop().await.unwrap();
}

async fn until_let_in(relay: &Relay) {
    soon(async {
        while relay.get("/").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Silent connections of one address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_cannot_lock_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        options.connections = 5;
        options.connections_of_address = 3;
    })
    .await;
    let mut idle = Vec::new();
    // More than its own slots and the reserved ones.
    for _ in 0..50 {
        idle.push(tokio::net::TcpStream::connect(relay.address).await.unwrap());
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(relay.address).await.unwrap();
    let other = tokio_tungstenite::client_async(request(&relay, Some(SUBPROTOCOL)), other);
    soon(other).await.unwrap();
    drop(idle);
    until_let_in(&relay).await;
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answers_loses_its_slot() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |options| {
        options.connections = 1;
        options.http_life = std::time::Duration::from_millis(300);
    })
    .await;
    let mut deaf = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    let ask = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(4_000);
    // Until its answers fill the socket, and then its requests do.
    let asking = tokio::spawn(async move {
        let written = tokio::io::AsyncWriteExt::write_all(&mut deaf, ask.as_bytes()).await;
        (written, deaf)
    });
    until_let_in(&relay).await;
    let _ = soon(asking).await.unwrap();
    relay.stop().await.unwrap();
}
