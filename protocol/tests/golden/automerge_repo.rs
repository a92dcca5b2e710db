//! The automerge-repo side: recorded frames of the real clients and servers with their decoded
//! contents, and the bytes of every message that the relay sends.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use landfall_protocol::ChangeHash;
use landfall_protocol::automerge_repo::chunks::{Carried, carried};
use landfall_protocol::automerge_repo::message::{
    Ephemeral, Message, PeerMetadata, RemoteHeads, Sync,
};
use landfall_protocol::automerge_repo::sync::{Have, Reply, SyncMessage};

/// The decoded contents of each file, as `read` writes them.
const FILES: &str = include_str!("automerge_repo/said.txt");

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/automerge_repo")
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn recorded() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, from_hex(&fs::read_to_string(&path).unwrap()))
        })
        .collect();
    found.sort();
    found
}

fn list(names: &[&str]) -> String {
    names.join("+")
}

fn metadata(metadata: &PeerMetadata<'_>) -> String {
    let storage = metadata.storage_id.unwrap_or("none");
    format!("storage={storage} ephemeral={}", metadata.is_ephemeral)
}

fn short(hashes: &[ChangeHash]) -> String {
    let shown: Vec<String> = hashes.iter().map(|hash| to_hex(&hash.0[..4])).collect();
    format!("[{}]", shown.join(" "))
}

/// A message in one line, complete except for the bytes of changes.
fn said(message: &Message<'_>) -> String {
    match message {
        Message::Join { sender, metadata: about, versions } => {
            let versions = versions.as_ref().map_or("none".into(), |versions| list(versions));
            format!("join from={sender} {} versions={versions}", metadata(about))
        }
        Message::Peer { sender, target, metadata: about, version } => {
            format!("peer from={sender} to={target} {} version={version}", metadata(about))
        }
        Message::Error { message, sender, target } => {
            format!("error from={sender} to={target} `{message}`")
        }
        Message::Request(sync) => format!("request {}", said_sync(sync)),
        Message::Sync(sync) => format!("sync {}", said_sync(sync)),
        Message::Unavailable { document, sender, target } => {
            format!("unavailable from={sender} to={target} {document}")
        }
        Message::Ephemeral(Ephemeral { document, sender, target, session, count, data }) => {
            let data = to_hex(data);
            format!("ephemeral from={sender} to={target} {document} {session}#{count} {data}")
        }
        Message::RemoteSubscription { sender, target, add, remove } => {
            let (add, remove) = (list(add), list(remove));
            format!("subscription from={sender} to={target} add={add} remove={remove}")
        }
        Message::RemoteHeads { sender, target, document, heads } => {
            let mut line = format!("remote-heads from={sender} to={target} {document}");
            for RemoteHeads { storage_id, heads, timestamp_ms } in heads {
                let heads = list(heads);
                write!(line, " {storage_id}={heads}@{timestamp_ms}").unwrap();
            }
            line
        }
        Message::Leave { sender } => format!("leave from={sender}"),
        Message::Unknown { kind } => format!("unknown {kind}"),
    }
}

fn said_sync(sync: &Sync<'_>) -> String {
    let message = SyncMessage::decode(sync.data).unwrap();
    let version = if sync.data[0] == 0x43 { "v2" } else { "v1" };
    let have: Vec<String> = message
        .have
        .iter()
        .map(|have| format!("{}+{}", short(&have.last_sync), have.entries))
        .collect();
    let carried = match carried(&message).unwrap() {
        Carried::Changes(mut changes) => {
            let count = std::iter::from_fn(|| changes.take_next().map(drop)).count();
            format!("{count} changes")
        }
        Carried::Whole(_) => format!("whole in {}", message.chunks.len()),
    };
    let flags = match message.flags {
        None => "none".to_owned(),
        Some(flags) => format!("reset={} read-only={}", flags.reset, flags.read_only),
    };
    let (from, to, document) = (sync.sender, sync.target, sync.document);
    let (heads, need, have) = (short(&message.heads), short(&message.need), have.join(","));
    format!(
        "from={from} to={to} {document} {version} heads={heads} need={need} have={have} \
         {carried} flags: {flags}"
    )
}

#[test]
fn every_recorded_frame_decodes_to_its_message() {
    let mut left: BTreeSet<&str> = FILES.lines().collect();
    for (name, bytes) in recorded() {
        let line = format!("{name}: {}", said(&Message::decode(&bytes).unwrap()));
        assert!(left.remove(line.as_str()), "not in said.txt:\n{line}");
    }
    assert_eq!(left, BTreeSet::new(), "not recorded");
}

#[test]
fn every_recorded_frame_is_encoded_identically() {
    for (name, bytes) in recorded() {
        let message = Message::decode(&bytes).unwrap();
        let written = message.encode();
        assert_eq!(Message::decode(&written).unwrap(), message, "{name}");
        // The one form that every client reads: a definite map without `null`.
        assert_eq!(written[0] & 0xe0, 0xa0, "{name}");
        if let Message::Sync(sync) | Message::Request(sync) = message {
            let theirs = automerge::sync::Message::decode(sync.data).unwrap();
            assert_eq!(theirs.clone().encode(), sync.data, "{name}: nothing of it was not read");
            let ours = SyncMessage::decode(sync.data).unwrap();
            assert_eq!((ours.heads, ours.need), (theirs.heads, theirs.need), "{name}");
        }
    }
}

#[test]
fn a_truncated_frame_is_invalid() {
    for (name, bytes) in recorded() {
        for length in 0..bytes.len() {
            assert!(Message::decode(&bytes[..length]).is_err(), "{name} cut to {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Message::decode(&longer).is_err(), "{name} and a byte");
    }
}

const DOCUMENT: &str = "4NMNnkMhL8jXrdJ9jamS58PAVdXu";
const STORAGE: &str = "3760df37-a4c6-4f66-9ecd-732039a9385d";

/// The bytes of every message that a relay sends. Clients must be able to read any change here.
#[test]
fn the_encoding_of_every_sent_message_is_stable() {
    let (sender, target) = ("relay", "alice");
    let metadata = PeerMetadata { storage_id: Some(STORAGE), is_ephemeral: false };
    let data: &[u8] = &[0x42, 0, 0, 0, 0];
    let heads = vec!["h1"];
    let remote = RemoteHeads { storage_id: STORAGE, heads, timestamp_ms: 1_700_000_000_000.0 };
    let ephemeral =
        Ephemeral { document: DOCUMENT, sender: "bob", target, session: "s", count: 7, data };
    for (message, golden) in [
        (Message::Peer { sender, target, metadata, version: "1" }, GOLDEN_PEER),
        (Message::Error { message: "why", sender, target }, GOLDEN_ERROR),
        (Message::Sync(Sync { document: DOCUMENT, sender, target, data }), GOLDEN_SYNC),
        (Message::Unavailable { document: DOCUMENT, sender, target }, GOLDEN_UNAVAILABLE),
        (Message::Ephemeral(ephemeral), GOLDEN_EPHEMERAL),
        (
            Message::RemoteHeads { sender, target, document: DOCUMENT, heads: vec![remote] },
            GOLDEN_REMOTE_HEADS,
        ),
    ] {
        assert_eq!(to_hex(&message.encode()), golden.replace([' ', '\n'], ""), "{message:?}");
        assert_eq!(Message::decode(&from_hex(golden)).unwrap(), message);
    }
}

#[test]
fn the_encoding_of_every_sent_sync_message_is_stable() {
    let (a, b) = (ChangeHash([0xaa; 32]), ChangeHash([0xbb; 32]));
    let have = [Have::of(vec![a])];
    let (aa, bb) = ("aa".repeat(32), "bb".repeat(32));
    for (reply, golden) in [
        (Reply { heads: &[a], have: &have, ..Reply::default() }, format!("4201{aa}000101{aa}0000")),
        (
            Reply { need: &[b], have: &[Have::default()], takes_whole: true, ..Reply::default() },
            format!("420001{bb}01000000 0102").replace(' ', ""),
        ),
        (
            Reply { heads: &[a, b], chunks: &[b"one", b"three"], ..Reply::default() },
            format!("4202{aa}{bb}00000203{}05{}", to_hex(b"one"), to_hex(b"three")),
        ),
    ] {
        assert_eq!(to_hex(&reply.encode().unwrap()), golden);
    }
}

const GOLDEN_PEER: &str = "
    a5647479706564706565726873656e64657249646572656c61796c706565724d65746164617461a2
    6973746f726167654964782433373630646633372d613463362d346636362d396563642d37333230
    33396139333835646b6973457068656d6572616cf47773656c656374656450726f746f636f6c5665
    7273696f6e613168746172676574496465616c696365
";

const GOLDEN_ERROR: &str = "
    a46474797065656572726f726873656e64657249646572656c6179676d6573736167656377687968
    746172676574496465616c696365
";

const GOLDEN_SYNC: &str = "
    a564747970656473796e6368746172676574496465616c69636564646174614542000000006a646f
    63756d656e744964781c344e4d4e6e6b4d684c386a5872644a396a616d5335385041566458756873
    656e64657249646572656c6179
";

const GOLDEN_UNAVAILABLE: &str = "
    a464747970656f646f632d756e617661696c61626c656a646f63756d656e744964781c344e4d4e6e
    6b4d684c386a5872644a396a616d53353850415664587568746172676574496465616c6963656873
    656e64657249646572656c6179
";

const GOLDEN_EPHEMERAL: &str = "
    a7647479706569657068656d6572616c68746172676574496465616c6963656a646f63756d656e74
    4964781c344e4d4e6e6b4d684c386a5872644a396a616d5335385041566458756464617461454200
    00000065636f756e74076973657373696f6e496461736873656e646572496463626f62
";

const GOLDEN_REMOTE_HEADS: &str = "
    a564747970657472656d6f74652d68656164732d6368616e67656468746172676574496465616c69
    63656a646f63756d656e744964781c344e4d4e6e6b4d684c386a5872644a396a616d533538504156
    645875686e65774865616473a1782433373630646633372d613463362d346636362d396563642d37
    3332303339613933383564a2656865616473816268316974696d657374616d70fb4278bcfe568000
    006873656e64657249646572656c6179
";
