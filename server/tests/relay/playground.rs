//! The playground: its page for browsers, its files, and the list of a space's documents.

use automerge::ChangeHash;
use serde_json::Value;

use crate::harness::{Author, Client, Relay, SPACE};

/// What a browser asks for, and the whole answer as text.
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
async fn the_pages_files_are_kept_for_ever_under_their_version() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let (_, _, page) = browse(&relay, "/", HTML).await;
    let mut files = named(&page);
    let script = files.iter().find(|file| file.ends_with(".js")).unwrap().clone();
    // The one that the script asks for.
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
        let is_gzip = file.ends_with(".wasm");
        assert_eq!(head.contains("content-encoding: gzip"), is_gzip, "{file}: {head}");
        assert_eq!(body.starts_with(&[0x1f, 0x8b]), is_gzip, "{file}");
        let (status, ..) = browse(&relay, &file.replace("/playground/", "/playground/0"), "").await;
        assert_eq!(status, 404, "of another version");
    }
    let (status, ..) =
        browse(&relay, &script.replace("playground.js", "..%2fversion.txt"), "").await;
    assert_eq!(status, 404);
    relay.stop().await.unwrap();
}

async fn page_of(relay: &Relay, query: &str) -> (Vec<String>, Option<String>) {
    let (status, body) = relay.get(&format!("/playground/documents{query}")).await;
    assert_eq!(status, 200, "{query}: {body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let ids = answer["documents"].as_array().unwrap();
    let ids = ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    assert!(answer["relay"].is_string());
    (ids, answer["next"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn documents_are_listed_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    assert_eq!(page_of(&relay, "?space=nobody.wrote.here").await, (Vec::new(), None));
    let mut client = Client::at_start(&relay).await;
    let mut made = Vec::new();
    for number in 1..=5 {
        let mut author = Author::new(number);
        let push = client.push(author.document, &author.changes(1)).await;
        client.acked(push).await;
        made.push(author.document);
    }
    made.sort_by_key(|id| *id.as_bytes());
    let made: Vec<String> = made.iter().map(ToString::to_string).collect();
    assert_eq!(page_of(&relay, &format!("?space={SPACE}")).await, (made.clone(), None));
    assert_eq!(page_of(&relay, &format!("?space={SPACE}&limit=5")).await, (made.clone(), None));
    let (first, next) = page_of(&relay, &format!("?space={SPACE}&limit=2")).await;
    assert_eq!((&first[..], next.as_deref()), (&made[..2], Some(made[1].as_str())));
    let after = made[1].replace(':', "%3A");
    let (second, next) = page_of(&relay, &format!("?space={SPACE}&limit=3&after={after}")).await;
    assert_eq!((&second[..], next), (&made[2..], None));
    assert_eq!(page_of(&relay, "").await, (Vec::new(), None), "the space `default` is another one");
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_question_is_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let hash = ChangeHash([7; 32]).to_string();
    for (query, told) in [
        ("limit=0".to_owned(), "1 to 1000"),
        ("limit=1001".to_owned(), "1 to 1000"),
        ("limit=-1".to_owned(), "1 to 1000"),
        ("space=..".to_owned(), "not allowed"),
        (format!("space={}", "a".repeat(65)), "1 to 64 bytes"),
        (format!("after={hash}"), "no document id"),
        ("page=2".to_owned(), "`space`, `after` and `limit`"),
    ] {
        let (status, body) = relay.get(&format!("/playground/documents?{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(body.contains(told), "{query}: {body}");
    }
    let foreign = "GET /playground/documents HTTP/1.1\r\nhost: localhost\r\n\
                   origin: https://evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(relay.ask(foreign).await.0, 403);
    relay.stop().await.unwrap();
}
