//! The playground: its page for browsers, its files, and the list of a space's documents.

use std::io::Read;

use flate2::read::GzDecoder;
use landfall_protocol::frame::entry_kind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Author, Client, Relay, SPACE, soon};

/// Sends a browser's request; returns the whole answer, with its head as text.
async fn browse(relay: &Relay, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    let (status, answer) = relay.ask_bytes(&request).await;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    (status, head, answer[end + 4..].to_vec())
}

const HTML: &str = "accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";

/// The addresses of the page's files.
fn named(page: &[u8]) -> Vec<String> {
    let page = String::from_utf8(page.to_vec()).unwrap();
    let found = page.split('"').filter(|part| part.starts_with("/playground/"));
    found.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_browser_gets_the_page_and_curl_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    for path in ["/", "/spaces/team.notes"] {
        let (status, head, body) = browse(&relay, path, HTML).await;
        assert_eq!(status, 200, "{path}");
        for line in [
            "content-type: text/html; charset=utf-8",
            "cache-control: no-cache",
            "vary: accept",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
            "content-security-policy: default-src 'none'; script-src 'self' 'wasm-unsafe-eval';",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        assert!(!head.contains("unsafe-inline") && !head.contains("http:"), "{head}");
        assert!(body.starts_with(b"<!doctype html>"));
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let known = format!("{HTML}if-none-match: {tag}\r\n");
        let (status, _, body) = browse(&relay, path, &known).await;
        assert_eq!((status, body.len()), (304, 0));
    }
    for headers in ["", "accept: */*\r\n", "accept: text/plain, application/json\r\n"] {
        let (status, head, body) = browse(&relay, "/", headers).await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("This is a Landfall relay."));
    }
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn the_pages_files_are_immutable_under_their_version() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (_, _, page) = browse(&relay, "/", HTML).await;
    let mut files = named(&page);
    let script = files.iter().find(|file| file.ends_with(".js")).unwrap().clone();
    // The file that the script requests.
    files.push(script.replace("playground.js", "automerge.wasm"));
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        let (status, head, body) = browse(&relay, file, "").await;
        assert_eq!(status, 200, "{file}");
        for line in [
            "cache-control: public, max-age=31536000, immutable",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        let kind = match file.rsplit('.').next().unwrap() {
            "js" => "text/javascript",
            "css" => "text/css",
            "svg" => "image/svg+xml",
            "wasm" => "application/wasm",
            _ => "text/plain",
        };
        assert!(head.contains(&format!("content-type: {kind}")), "{file}: {head}");
        assert!(
            !head.contains("content-encoding"),
            "{file}, to a client that does not accept gzip: {head}"
        );
        let (status, head, gzip) = browse(&relay, file, "accept-encoding: gzip, br\r\n").await;
        assert_eq!(status, 200, "{file}");
        // Small files and pictures are sent uncompressed.
        let is_gzip = !file.ends_with(".svg");
        assert_eq!(head.contains("content-encoding: gzip"), is_gzip, "{file}: {head}");
        assert_eq!(head.contains("vary: accept-encoding"), is_gzip, "{file}: {head}");
        if is_gzip {
            assert!(gzip.len() < body.len(), "{file}");
            let mut inflated = Vec::new();
            GzDecoder::new(&gzip[..]).read_to_end(&mut inflated).unwrap();
            assert!(inflated == body, "{file} is another file compressed");
        }
        let (status, ..) = browse(&relay, &file.replace("/playground/", "/playground/0"), "").await;
        assert_eq!(status, 404, "a file of another version");
    }
    let (status, ..) =
        browse(&relay, &script.replace("playground.js", "..%2fversion.txt"), "").await;
    assert_eq!(status, 404);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn the_service_worker_may_answer_for_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (status, head, body) = browse(&relay, "/playground/worker.js", "").await;
    assert_eq!(status, 200);
    for line in [
        "content-type: text/javascript",
        "service-worker-allowed: /",
        // Otherwise a browser could keep an old one indefinitely.
        "cache-control: no-cache",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    let (_, _, page) = browse(&relay, "/", HTML).await;
    let version = named(&page)[0].split('/').nth(2).unwrap().to_owned();
    assert!(String::from_utf8(body).unwrap().contains(&version), "of the page's version");
    relay.stop().await.unwrap();
}

/// The answer of `/playground/documents`: each document with its last offset, negative if it is deleted.
struct Listed {
    documents: Vec<(String, i64)>,
    next: Option<u64>,
    head: u64,
    epoch: Option<String>,
}

async fn list(relay: &Relay, query: &str) -> Listed {
    let (status, body) = relay.get(&format!("/playground/documents{query}")).await;
    assert_eq!(status, 200, "{query}: {body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert!(answer["relay"].is_string());
    let of = |document: &Value| {
        let offset = document["offset"].as_i64().unwrap();
        let sign = if document["deleted"] == Value::Bool(true) { -1 } else { 1 };
        (document["url"].as_str().unwrap().to_owned(), sign * offset)
    };
    Listed {
        documents: answer["documents"].as_array().unwrap().iter().map(of).collect(),
        next: answer["next"].as_u64(),
        head: answer["head"].as_u64().unwrap(),
        epoch: answer["epoch"].as_str().map(str::to_owned),
    }
}

#[tokio::test]
async fn documents_are_listed_newest_first_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let nothing = list(&relay, "?space=nobody.wrote.here").await;
    assert_eq!((nothing.documents, nothing.next, nothing.head), (Vec::new(), None, 0));
    assert_eq!(nothing.epoch, None);
    let mut client = Client::at_start(&relay).await;
    let mut authors: Vec<Author> = (1..=5).map(Author::new).collect();
    for author in &mut authors {
        let push = client.push(author.document, &author.changes(2)).await;
        client.acked(push).await;
    }
    // The offsets are 1 to 10; the second document is edited once more, the fourth deleted.
    let push = client.push(authors[1].document, &authors[1].changes(1)).await;
    client.acked(push).await;
    client.delete(authors[3].document).await;
    let name = |author: usize| authors[author].document.to_string();
    let all = [(name(1), 11), (name(4), 10), (name(2), 6), (name(0), 2)];
    let query = |rest: &str| format!("?space={SPACE}{rest}");
    let whole = list(&relay, &query("")).await;
    assert_eq!((&whole.documents[..], whole.next, whole.head), (&all[..], None, 12));
    assert!(whole.epoch.is_some());
    let first = list(&relay, &query("&limit=3")).await;
    assert_eq!((&first.documents[..], first.next), (&all[..3], Some(6)));
    let rest = list(&relay, &query("&limit=3&before=6")).await;
    assert_eq!((&rest.documents[..], rest.next), (&all[3..], None));
    let changed = list(&relay, &query("&since=10")).await;
    assert_eq!((changed.documents, changed.next), (vec![(name(3), -12), (name(1), 11)], None));
    assert_eq!(list(&relay, "").await.documents, [], "the space `default` is empty");
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_document_is_deleted_for_all_clients() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let push = client.push(author.document, &author.changes(1)).await;
    client.acked(push).await;
    let delete = |path: String| {
        format!(
            "DELETE /playground/documents/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        )
    };
    let path = format!("{}?space={SPACE}", author.document);
    // A page from another server may not.
    let foreign = format!("{}origin: https://evil.example\r\n\r\n", delete(path.clone()));
    assert_eq!(relay.ask(&foreign).await.0, 403);
    assert_eq!(relay.ask(&format!("{}\r\n", delete("nonsense".to_owned()))).await.0, 400);
    // Neither creates a space, nor a tombstone.
    let unknown = Author::new(2).document;
    for (document, space) in [(author.document, "typo"), (unknown, SPACE)] {
        let request = delete(format!("{document}?space={space}"));
        let (status, said) = relay.ask(&format!("{request}\r\n")).await;
        assert_eq!(status, 404);
        assert!(said.contains("nothing was deleted"), "{said}");
    }
    for (space, known) in [("typo", 0), (SPACE, 1)] {
        let listed = list(&relay, &format!("?space={space}")).await;
        assert_eq!(listed.documents.len(), known, "{space}");
    }
    // A second deletion is no error.
    for _ in 0..2 {
        assert_eq!(relay.ask(&format!("{}\r\n", delete(path.clone()))).await.0, 204);
        assert_eq!(list(&relay, &format!("?space={SPACE}")).await.documents, []);
    }
    // After its own change.
    let entries = client.entries(2).await;
    assert_eq!(entries[1].kind, entry_kind::TOMBSTONE);
    assert_eq!(entries[1].document, author.document);
    relay.stop().await.unwrap();
}

/// Reads from a stream of events until it contains this text.
async fn until(stream: &mut TcpStream, wanted: &str) {
    let mut read = String::new();
    while !read.contains(wanted) {
        let mut bytes = [0; 4096];
        let count = soon(stream.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "it ended without {wanted:?}: {read:?}");
        read.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[tokio::test]
async fn a_page_is_notified_when_the_log_grows() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let request = format!("GET /playground/live?space={SPACE} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "text/event-stream").await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let push = client.push(author.document, &author.changes(3)).await;
    client.acked(push).await;
    until(&mut stream, "data: 3\n\n").await;
    client.delete(author.document).await;
    until(&mut stream, "data: 4\n\n").await;
    // A relay that is being stopped does not wait for streams: they end cleanly.
    relay.stop().await.unwrap();
    until(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test]
async fn an_invalid_request_is_answered_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    for (query, expected) in [
        ("limit=0".to_owned(), "1 to 1000"),
        ("limit=1001".to_owned(), "1 to 1000"),
        ("limit=-1".to_owned(), "1 to 1000"),
        ("space=..".to_owned(), "not allowed"),
        (format!("space={}", "a".repeat(65)), "1 to 64 bytes"),
        ("before=automerge:2akvofn6L1o4RMUEMQi7qzwRjKWZ".to_owned(), "`before` is an offset"),
        ("page=2".to_owned(), "`space`, `since`, `before` and `limit`"),
    ] {
        let (status, body) = relay.get(&format!("/playground/documents?{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(body.contains(expected), "{query}: {body}");
    }
    let foreign = "GET /playground/documents HTTP/1.1\r\nhost: localhost\r\n\
                   origin: https://evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(relay.ask(foreign).await.0, 403);
    relay.stop().await.unwrap();
}
