//! A standard error that accepts nothing: the relay serves, and ends when asked to.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::harness::{Author, Client, SPACE, get_of, soon};
use crate::process::{Process, closed_stderr, command};

/// More than a pipe holds, at two log lines for each session.
const SESSIONS: usize = 400;

/// Short sessions, then a push that must be answered; returns the count of dropped log lines.
async fn use_it(relay: &Process) -> f64 {
    for _ in 0..SESSIONS {
        let mut client = Client::connect_to(relay.address).await;
        client.say_hello().await;
    }
    let mut client = Client::connect_to(relay.address).await;
    client.say_hello().await;
    client.subscribe(1, SPACE, None, None).await;
    let mut author = Author::new(1);
    let push = client.push(author.document, &author.changes(1)).await;
    client.acked(push).await;
    let (status, body) = get_of(relay.address, "/readyz").await;
    assert_eq!((status, body.trim()), (200, "ready"));
    let (_, metrics) = get_of(relay.address, "/metrics").await;
    let lost = metrics.lines().find_map(|l| l.strip_prefix("landfall_relay_log_lines_lost_total "));
    lost.unwrap().parse().unwrap()
}

async fn ends(relay: Process) -> Option<i32> {
    soon(tokio::task::spawn_blocking(move || relay.ended())).await.unwrap().0
}

#[tokio::test]
async fn an_unread_pipe_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let relay = Process::start_as(command(folder.path()), writer.into());
    use_it(&relay).await;
    relay.signal("-TERM");
    assert_eq!(ends(relay).await, Some(0));
    drop(reader);
}

/// Its last line does not fit either.
#[tokio::test]
async fn a_failing_relay_exits_with_its_code_while_its_log_is_unread() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (reader, writer) = std::io::pipe().unwrap();
    let relay = Process::start_as(command(&data), writer.into());
    use_it(&relay).await;
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(ends(relay).await, Some(8));
    drop(reader);
}

#[tokio::test]
async fn lines_lost_to_a_full_disk_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let relay = Process::start_as(command(folder.path()), full.into());
    let lost = use_it(&relay).await;
    assert!(lost >= SESSIONS as f64, "{lost} lines lost");
    relay.signal("-TERM");
    assert_eq!(ends(relay).await, Some(0));
}

#[tokio::test]
async fn a_closed_standard_error_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A pipe without a reader, and a closed one.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let broken = Process::start_as(command(&folder.path().join("1")), writer.into());
    let closed = closed_stderr(&command(&folder.path().join("2")));
    let closed = Process::start_as(closed, Stdio::inherit());
    for relay in [broken, closed] {
        use_it(&relay).await;
        relay.signal("-TERM");
        assert_eq!(ends(relay).await, Some(0));
    }
}

/// A panic would exit with 101.
#[test]
fn commands_exit_with_their_own_codes_when_output_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let relay = Process::start(&data);
    relay.signal("-TERM");
    relay.ended();
    let data = data.to_str().unwrap();
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--no-such-flag"], 2),
        // Nothing was shown, and a script is to know that.
        (&["inspect", "--data", data], 7),
        (&["verify", "--data", data], 7),
        (&["inspect", "--data", "/nonexistent"], 4),
        (&["serve", "--data", data, "--listen", "nonsense"], 2),
    ] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-relay"));
        let ended = command.env_clear().args(arguments).stdout(full()).stderr(full()).status();
        assert_eq!(ended.unwrap().code(), Some(code), "{arguments:?}");
    }
}
