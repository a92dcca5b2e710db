//! HTTP requests to a relay, as an operator makes them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::PATIENCE;

/// Returns the status and body of a page of the relay on `port`.
///
/// # Panics
/// If the relay does not answer.
pub fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the relay answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in UTF-8");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// Returns a value from `/metrics`, by its name without labels; 0 if it is absent.
///
/// # Panics
/// As [`get`].
pub fn metric(port: u16, name: &str) -> f64 {
    let (_, text) = get(port, "/metrics");
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

/// Polls until `holds` returns true.
///
/// # Panics
/// If it takes longer than [`PATIENCE`].
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting {what}");
        // sleep: HTTP cannot signal a change; this only spaces the requests
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
