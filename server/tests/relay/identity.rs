//! Tokens, end to end: made by the command, demanded by the relay, and in no line of its log.

use std::path::Path;
use std::process::{Command, Output};

use landfall_protocol::frame::{Frame, Hello};
use landfall_protocol::{Code, ReplicaId};
use serde_bytes::ByteBuf;

use crate::harness::{Author, Client, SPACE, soon};
use crate::process::{Process, command};

const SECRET: &str = "a secret of more than thirty-two bytes\n";

/// The options of a relay that shares the secret with the issuer of tokens.
fn identity(secret: &Path) -> Vec<String> {
    let secret = secret.to_str().unwrap();
    ["--jwt-secret", secret, "--jwt-issuer", "me", "--jwt-audience", "relay"]
        .map(ToOwned::to_owned)
        .into()
}

/// Runs `landfall-relay token`.
fn token_command(secret: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-relay"));
    command.env_clear().arg("token").arg("--secret").arg(secret);
    command.args(["--issuer", "me", "--audience", "relay", "--sub", "alice"]).args(more);
    command.output().unwrap()
}

fn token(secret: &Path, more: &[&str]) -> String {
    let done = token_command(secret, more);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Connects, and sends a hello with this token.
async fn hello(relay: &Process, token: Option<&str>) -> (Client, Frame) {
    let mut client = Client::connect_to(relay.address).await;
    let replica = ReplicaId::from_bytes([7; 16]);
    let token = token.map(|token| ByteBuf::from(token.as_bytes()));
    let agent = "test".to_owned();
    client.send(&Frame::Hello(Hello { versions: vec![1], replica, token, agent })).await;
    let answer = soon(client.frame()).await;
    (client, answer)
}

#[tokio::test]
async fn a_relay_with_a_secret_serves_only_clients_with_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mut serve = command(&folder.path().join("data"));
    serve.args(identity(&secret)).env("RUST_LOG", "trace");
    let relay = Process::start_as(serve, std::process::Stdio::piped());
    let good = token(&secret, &["--space", "note*", "--rights", "write,create"]);
    let (mut client, answer) = hello(&relay, Some(&good)).await;
    assert!(matches!(answer, Frame::Welcome(_)), "{answer:?}");
    client.subscribe(1, SPACE, None, None).await;
    let mut author = Author::new(1);
    let document = author.document;
    let push = client.push(document, &author.changes(1)).await;
    soon(client.acked(push)).await;
    let other = folder.path().join("other");
    std::fs::write(&other, "another secret of more than 32 bytes\n").unwrap();
    let forged = token(&other, &["--space", "*", "--rights", "admin"]);
    for bad in [None, Some(""), Some("x.y.z"), Some(&*forged), Some(&good[..good.len() - 4])] {
        let (mut client, answer) = hello(&relay, bad).await;
        let Frame::Error(error) = answer else { panic!("{bad:?}: {answer:?}") };
        assert_eq!(error.code, Code::UNAUTHORIZED, "{bad:?}: {error:?}");
        soon(client.until_end()).await;
    }
    relay.signal("-TERM");
    let (code, _, log) = relay.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("rejected a token"), "the log has the level that is tested: {log}");
    for token in [&good, &forged] {
        for part in token.split('.').skip(1) {
            assert!(!log.contains(&part[..16]), "a part of a token is in the log: {log}");
        }
    }
}

#[test]
fn a_relay_with_unusable_keys_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[String]| {
        let data = folder.path().join("data");
        let done = command(&data).args(["--listen", "127.0.0.1:0"]).args(arguments).output();
        let done = done.unwrap();
        assert!(done.stdout.is_empty(), "it printed an address");
        assert!(!data.exists(), "it made a store");
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "short").unwrap();
    let (code, line) = refused(&identity(&secret));
    assert!(code == 7 && line.contains("5 bytes, fewer than 32"), "{line}");
    std::fs::write(&secret, SECRET).unwrap();
    let access = folder.path().join("access.json");
    std::fs::write(&access, "{\n  \"rule\": []\n}").unwrap();
    let with_access = ["--access".to_owned(), access.to_str().unwrap().to_owned()];
    let (code, line) = refused(&[&identity(&secret)[..], &with_access].concat());
    assert!(code == 7 && line.contains("line 2, column 8: unknown field `rule`"), "{line}");
    let (code, line) = refused(&with_access);
    assert!(code == 2 && line.contains("--jwt-secret, --jwt-keys or --oidc-issuer"), "{line}");
    let (code, line) = refused(&identity(&secret)[..4]);
    assert!(code == 2 && line.contains("--jwt-audience"), "{line}");
}

#[test]
fn a_token_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let refused = |more: &[&str]| {
        let done = token_command(&secret, more);
        assert!(done.stdout.is_empty());
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, line) = refused(&[]);
    assert!(code == 7 && line.contains("openssl rand"), "{line}");
    std::fs::write(&secret, SECRET).unwrap();
    for (more, says) in [
        (&["--space", "a", "--rights", "own"][..], "is not a right"),
        (&["--space", "a*b", "--rights", "read"], "not its last character"),
        (&["--space", "a"], "--rights"),
        (&["--expires", "0s"], "at least a second"),
    ] {
        let (code, line) = refused(more);
        assert!(code == 2 && line.contains(says), "{line}");
    }
}
