//! Measurements. The normal run uses small sizes and checks only what must hold on every machine; for the
//! figures themselves, on a quiet machine:
//! `LANDFALL_FIGURES=1 cargo test --release -p landfall-relay --test relay -- --nocapture --test-threads 1 figures`.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use landfall_protocol::frame::{Entry, Frame, entry_kind};
use landfall_protocol::lineage::EpochRecord;
use landfall_protocol::space::{Commit, NewEntry, NewKind};
use landfall_protocol::{ActorId, DocumentId, Epoch, Offset};
use landfall_relay::store::{Log, SqliteStore};
use serde_bytes::ByteBuf;

use crate::harness::{Author, Client, Relay, SPACE};
use crate::process::{Process, command};

/// The size of a measurement: `full` if figures were requested.
fn size(small: usize, full: usize) -> usize {
    if std::env::var_os("LANDFALL_FIGURES").is_some() { full } else { small }
}

/// Entries as typing creates them: 100 bytes each, one author for each document.
fn entries(range: std::ops::Range<u64>, documents: u64) -> Vec<NewEntry> {
    let entry = |offset: u64| {
        // Spreads hashes over the whole range, as SHA-256 does.
        let hash = |offset: u64| {
            let mut id = [0; 32];
            let mut state = offset;
            for part in id.chunks_mut(8) {
                state = (state ^ (state >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                part.copy_from_slice(&state.to_le_bytes());
            }
            id
        };
        let number = (offset % documents).to_le_bytes();
        let mut document = [0; 16];
        document[..8].copy_from_slice(&number);
        let seq = offset / documents + 1;
        let entry = Entry {
            offset: Offset(offset + 1),
            document: DocumentId::from_bytes(document),
            kind: entry_kind::CHANGE,
            flags: 0,
            id: hash(offset + 1),
            dependencies: vec![hash((offset + 1).saturating_sub(documents))],
            author: ByteBuf::from([7; 16]),
            at_ms: 1,
            body: ByteBuf::from(vec![offset as u8; 100]),
        };
        let actor = ActorId::from(document);
        NewEntry { entry, kind: NewKind::Change { actor, seq, max_op: seq, operations: 1 } }
    };
    range.map(entry).collect()
}

/// Appends entries in commits of 1,000; returns the total time.
fn append(folder: &Path, count: u64, documents: u64) -> Duration {
    let store = SqliteStore::open(folder).unwrap();
    let epoch = Epoch::from_bytes([1; 16]);
    let mut took = Duration::ZERO;
    for first in (0..count).step_by(1_000) {
        let opens =
            (first == 0).then_some(EpochRecord { epoch, first: Offset(1), predecessor: None });
        let entries = entries(first..(first + 1_000).min(count), documents);
        let commit = Commit { space: SPACE.parse().unwrap(), opens, entries };
        let (done, committed) = mpsc::channel();
        let began = Instant::now();
        store.append(Arc::new(commit), Box::new(move |result| done.send(result).unwrap()));
        committed.recv().unwrap().unwrap();
        took += began.elapsed();
    }
    store.close().unwrap();
    took
}

#[test]
fn what_an_entry_costs() {
    for documents in [1, 100, 1_000] {
        let folder = tempfile::tempdir().unwrap();
        let count = size(3_000, 100_000) as u64;
        let took = append(folder.path(), count, documents);
        let size = std::fs::metadata(folder.path().join("relay.db")).unwrap().len();
        println!(
            "{documents} documents: {:.1} µs and {} bytes an entry",
            took.as_secs_f64() * 1e6 / count as f64,
            size / count
        );
    }
}

#[test]
fn what_stays_resident_after_start() {
    let mut resident = Vec::new();
    for documents in [0, size(5_000, 10_000), size(10_000, 100_000)] {
        let folder = tempfile::tempdir().unwrap();
        append(folder.path(), documents as u64 * 2, documents.max(1) as u64);
        let relay = Process::start(folder.path());
        resident.push(relay.resident_kib());
        println!("{documents} documents: {} KiB resident", relay.resident_kib());
    }
    let (least, most) = (resident.iter().min().unwrap(), resident.iter().max().unwrap());
    assert!(*most <= 25 * 1024 && most - least <= 2 * 1024, "{resident:?} KiB");
}

#[tokio::test]
async fn the_speed_of_filling_and_reading_a_log() {
    let count = size(2_000, 20_000);
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut author = Client::at_start(&relay).await;
    let mut document = Author::new(1);
    let changes = document.changes(count);
    let began = Instant::now();
    let mut last = 0;
    for part in changes.chunks(1_000) {
        last = author.push(document.document, part).await;
    }
    author.acked(last).await;
    let took = began.elapsed();
    println!("pushed and durable: {:.0} changes/s", count as f64 / took.as_secs_f64());
    let began = Instant::now();
    Client::at_start(&relay).await.entries(count).await;
    let took = began.elapsed();
    println!("read from the start: {:.0} entries/s", count as f64 / took.as_secs_f64());
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_idle_session_costs() {
    let sessions = size(50, 1_000);
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path());
    let before = process.resident_kib();
    let mut clients = Vec::new();
    for _ in 0..sessions {
        let mut client = Client::connect_to(process.address).await;
        client.say_hello().await;
        client.subscribe(1, SPACE, None, None).await;
        clients.push(client);
    }
    let after = process.resident_kib().max(before);
    println!("{} KiB a session", (after - before) as f64 / sessions as f64);
}

/// Spaces of the load below, the sessions in each, and the bytes of the one message that each session sends
/// to all others of its space.
const SPACES: usize = 10;
const MEMBERS: usize = 10;
const LARGE_BYTES: usize = 2 << 20;

/// Memory after a burst of large messages. `LANDFALL_FIGURES_ENV` (`NAME=VALUE,…`) is added to the relay's
/// environment, to compare allocators.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_returns_after_sessions_with_large_messages() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let settings = std::env::var("LANDFALL_FIGURES_ENV").unwrap_or_default();
    command.envs(settings.split(',').filter_map(|setting| setting.split_once('=')));
    let process = Process::start_as(command, std::process::Stdio::null());
    let idle = process.resident_kib();
    let members = size(2, MEMBERS);
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..SPACES * members {
        let address = process.address;
        sessions.spawn(async move {
            let space = format!("space-{}", session % SPACES);
            let mut author = Author::new(session as u8 + 1);
            let change = author.large_changes(1, LARGE_BYTES).remove(0);
            let mut client = Client::connect_to(address).await;
            client.say_hello().await;
            client.subscribe(1, &space, None, None).await;
            client.push(author.document, &[change]).await;
            // Its own message returns as an ack, those of the others as entries.
            let mut heard = 0;
            while heard < members {
                heard += match client.frame().await {
                    Frame::Ack(_) => 1,
                    Frame::Entries(page) => page.entries.len(),
                    other => panic!("{other:?}"),
                };
            }
        });
    }
    sessions.join_all().await;
    let (peak, ended) = (process.peak_kib(), process.resident_kib());
    let most = idle + RETURNED_KIB;
    let returned = async {
        while process.resident_kib() > most {
            // sleep: the relay checks every ten seconds whether to trim
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // The arenas are trimmed after two checks without traffic.
    tokio::time::timeout(Duration::from_secs(60), returned)
        .await
        .expect("the memory was not released");
    let after = process.resident_kib();
    let mib = [idle, peak, ended, after].map(|kib| kib / 1024);
    println!("MiB resident: idle, at the peak, at the end, after: {mib:?}");
}

/// KiB above an idle relay that may stay resident after a burst: the caches of SQLite's connections, the
/// rings of the spaces, and what the allocator cannot return.
const RETURNED_KIB: u64 = 48 * 1024;
