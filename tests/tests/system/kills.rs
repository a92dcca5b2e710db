//! SIGKILL at random moments under load: every change that `change()` returned is in the store, every
//! acknowledged one is at the relay, and none is there twice. Both ends compact all the time, so that
//! some kills hit a compaction.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{ChangeHash, Document, DocumentId, LinkStatus, Space, Store};
use landfall_test_rng::Rng;
use landfall_tests::process::{Relay, binary};
use landfall_tests::replica::{
    Snapshot, check_counts, fresh_copy, link, open, wait_for, wait_synced,
};
use landfall_tests::site::{COMPACTIONS, compactions};
use landfall_tests::{PATIENCE, RaiseOnDrop, log};

const SPACE: &str = "default";
const RELAY_KILLS: usize = 30;
const ENGINE_KILLS: usize = 20;

/// A replica that types until `stop` is set, and a record of its results.
struct Typing {
    store: Store,
    space: Space,
    documents: Vec<Document>,
    returned: Mutex<Vec<ChangeHash>>,
    acknowledged: Mutex<BTreeSet<ChangeHash>>,
}

impl Typing {
    fn start(path: &Path, url: &str) -> Self {
        let store = Store::open(path, compactions()).unwrap();
        let space = store.space(SPACE).unwrap();
        let documents =
            (0..3).map(|number| space.create_named(&format!("shared {number}"), |_| Ok(())));
        let documents = documents.collect::<Result<_, _>>().unwrap();
        store.connect(link(url)).unwrap();
        let (returned, acknowledged) = Default::default();
        Self { store, space, documents, returned, acknowledged }
    }

    fn type_until(&self, stop: &AtomicBool) {
        let me = self.store.replica();
        for number in 0_i64.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let document = &self.documents[number as usize % self.documents.len()];
            let change = document.change(|tx| {
                // A value equal to the present one would make no change.
                tx.put(ROOT, "who", format!("{me} {number}"))?;
                Ok(tx.put(ROOT, format!("key {}", number % 5), "text")?)
            });
            change.unwrap();
            let last = document.read(|doc| doc.get_last_local_change().map(|c| c.hash()));
            self.returned.lock().unwrap().push(last.unwrap().expect("the change was just made"));
        }
    }

    /// Records the changes that `flush` reports as acknowledged.
    fn flush_until(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let before = self.returned.lock().unwrap().clone();
            if self.store.flush_blocking(PATIENCE).is_ok() {
                self.acknowledged.lock().unwrap().extend(before);
            }
        }
    }

    fn is_pushing(&self) -> bool {
        let status = self.store.status();
        status.link == LinkStatus::Online && status.pending().changes > 0
    }
}

fn is_online(store: &Store) {
    wait_for(store, "to be online", |status| status.link == LinkStatus::Online);
}

/// Kills the relay at random moments; returns how often some change was unacknowledged at that time.
fn kill_relays(mut relay: Relay, data: &Path, rng: &mut Rng, both: &[Typing]) -> (Relay, usize) {
    let port = relay.port;
    let mut pushing = 0;
    for kill in 0..RELAY_KILLS {
        both.iter().for_each(|typing| is_online(&typing.store));
        // sleep: the kill must come at a moment independent of the system's events
        std::thread::sleep(Duration::from_micros(rng.below(150_000)));
        pushing += usize::from(both.iter().any(Typing::is_pushing));
        relay.kill();
        let acknowledged = both.iter().flat_map(|t| t.acknowledged.lock().unwrap().clone());
        let acknowledged: BTreeSet<ChangeHash> = acknowledged.collect();
        let kept = log::hashes(&log::read(data, SPACE));
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "kill {kill}: acknowledged, but not on the disk: {lost:?}");
        relay = Relay::start_with(data, port, COMPACTIONS);
    }
    (relay, pushing)
}

#[test]
fn a_killed_relay_loses_no_acknowledged_change() {
    let mut rng = Rng::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start_with(&data, 0, COMPACTIONS);
    let both = ["a", "b"].map(|name| Typing::start(&folder.path().join(name), &relay.url));
    let stop = AtomicBool::new(false);
    let (relay, pushing) = std::thread::scope(|scope| {
        let _stops = RaiseOnDrop(&stop);
        for typing in &both {
            scope.spawn(|| typing.type_until(&stop));
            scope.spawn(|| typing.flush_until(&stop));
        }
        kill_relays(relay, &data, &mut rng, &both)
    });
    both.iter().for_each(|typing| wait_synced(&typing.store));
    // `Live` is the replica's own view of the log; the other replica's pushes may have been
    // acknowledged since.
    let total: usize = both.iter().map(|t| t.returned.lock().unwrap().len()).sum::<usize>() + 3;
    for typing in &both {
        wait_for(&typing.store, "for every change", |status| {
            status.spaces.values().all(|space| space.changes >= total as u64)
        });
    }
    let snapshots = both.each_ref().map(|typing| Snapshot::of(&typing.space));
    assert_eq!(snapshots[0], snapshots[1]);
    assert_eq!(snapshots[0], fresh_copy(&relay.url, SPACE));
    assert_eq!(snapshots[0].changes(), total, "one change for each change() call that returned");
    for (typing, snapshot) in both.iter().zip(&snapshots) {
        check_counts(&typing.space, snapshot);
        let returned: BTreeSet<ChangeHash> =
            typing.returned.lock().unwrap().iter().copied().collect();
        assert!(returned.is_subset(&snapshot.hashes()), "a committed change is lost");
    }
    relay.kill();
    assert_eq!(log::hashes(&log::read(&data, SPACE)), snapshots[0].hashes());
    let acknowledged: usize = both.iter().map(|t| t.acknowledged.lock().unwrap().len()).sum();
    println!(
        "{RELAY_KILLS} kills of the relay, {pushing} with an unacknowledged push; \
         {total} changes, {acknowledged} of them confirmed by flush while it was being killed"
    );
    assert!(pushing * 2 >= RELAY_KILLS, "only {pushing} kills found an unacknowledged push");
}

/// An engine process, and the lines that it prints.
struct Typist {
    child: Child,
    lines: Receiver<String>,
}

impl Typist {
    fn start(store: &Path, url: &str) -> Self {
        let mut child = Command::new(binary("typist"))
            .arg(store)
            .args([url, SPACE])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        // The thread ends with the child's output.
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, lines }
    }

    /// Kills it some time after it started to type, and returns everything that it printed.
    fn kill_after(mut self, wait: Duration) -> Told {
        let mut output = Told::default();
        while output.changes.is_empty() {
            let line = self.lines.recv_timeout(PATIENCE).expect("the typist types");
            output.hear(&line);
        }
        // sleep: the kill must come at a moment independent of the system's events
        std::thread::sleep(wait);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().for_each(|line| output.hear(&line));
        output
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a typist in one run.
#[derive(Default)]
struct Told {
    changes: Vec<(DocumentId, ChangeHash)>,
    acknowledged: usize,
    /// Whether `change()` was running, per document.
    running: BTreeMap<DocumentId, bool>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["begin", document] => {
                self.running.insert(document.parse().unwrap(), true);
            }
            ["change", document, hash] => {
                let document = document.parse().unwrap();
                self.running.insert(document, false);
                self.changes.push((document, hash.parse().unwrap()));
            }
            ["acked", count] => self.acknowledged = count.parse().unwrap(),
            other => panic!("the typist printed {other:?}"),
        }
    }

    fn unacknowledged(&self) -> bool {
        self.acknowledged < self.changes.len()
    }

    fn was_changing(&self) -> bool {
        self.running.values().any(|running| *running)
    }
}

/// The results of all runs together, to compare with the store's content.
#[derive(Default)]
struct Account {
    returned: BTreeMap<DocumentId, BTreeSet<ChangeHash>>,
    acknowledged: BTreeSet<ChangeHash>,
    /// Changes that were committed, but whose `change()` was killed before it returned.
    unreturned: BTreeMap<DocumentId, usize>,
}

impl Account {
    fn check(&mut self, kill: usize, told: &Told, space: &Space) {
        for document in told.running.keys() {
            self.returned.entry(*document).or_default();
        }
        for (document, hash) in &told.changes {
            assert!(self.returned.entry(*document).or_default().insert(*hash), "{hash} twice");
        }
        let acknowledged = told.changes[..told.acknowledged].iter().map(|(_, hash)| *hash);
        self.acknowledged.extend(acknowledged);
        let snapshot = Snapshot::of(space);
        check_counts(space, &snapshot);
        for (document, returned) in &self.returned {
            let held = snapshot.hashes_of(document);
            let lost: Vec<_> = returned.difference(&held).collect();
            assert!(lost.is_empty(), "kill {kill}: committed, but not in the store: {lost:?}");
            // One more is the template's change; another one may be the change that the kill
            // interrupted.
            let extra = held.len() - 1 - returned.len();
            let before = self.unreturned.insert(*document, extra).unwrap_or(0);
            let running = told.running.get(document).copied().unwrap_or(false);
            assert!(
                extra <= before + usize::from(running),
                "kill {kill}: an unknown change in the store"
            );
        }
    }
}

/// Another replica edits a document of its own meanwhile, so that the typist receives changes.
fn chatter(document: &Document, stop: &AtomicBool) {
    for number in 0_i64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        document.change(|tx| Ok(tx.put(ROOT, "chatter", number)?)).unwrap();
    }
}

#[test]
fn a_killed_engine_loses_no_committed_change() {
    let mut rng = Rng::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start_with(&data, 0, COMPACTIONS);
    let path = folder.path().join("typed");
    let peer = open(&folder.path().join("peer"));
    let peer_space = peer.space(SPACE).unwrap();
    let chat = peer_space.create(|_| Ok(())).unwrap().0;
    peer.connect(link(&relay.url)).unwrap();
    let (mut changing, mut pushing, mut either) = (0, 0, 0);
    let mut account = Account::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = RaiseOnDrop(&stop);
        scope.spawn(|| chatter(&chat, &stop));
        for kill in 0..ENGINE_KILLS {
            let typist = Typist::start(&path, &relay.url);
            let output = typist.kill_after(Duration::from_micros(rng.below(300_000)));
            changing += usize::from(output.was_changing());
            pushing += usize::from(output.unacknowledged());
            either += usize::from(output.was_changing() || output.unacknowledged());
            let store = open(&path);
            account.check(kill, &output, &store.space(SPACE).unwrap());
            store.close().unwrap();
        }
    });
    check_the_end(&relay, &path, &peer, &peer_space, &account);
    relay.kill();
    log::hashes(&log::read(&data, SPACE));
    println!(
        "{ENGINE_KILLS} kills of an engine: {changing} inside change(), {pushing} with an \
         unacknowledged push; {} changes returned, {} acknowledged",
        account.returned.values().map(BTreeSet::len).sum::<usize>(),
        account.acknowledged.len()
    );
    assert!(either * 2 >= ENGINE_KILLS, "only {either} kills hit a call in progress");
    assert!(!account.acknowledged.is_empty(), "no change was acknowledged");
}

fn check_the_end(relay: &Relay, path: &Path, peer: &Store, peer_space: &Space, account: &Account) {
    // First the relay alone: acknowledged changes must not depend on any client.
    let at_relay = fresh_copy(&relay.url, SPACE).hashes();
    let lost: Vec<_> = account.acknowledged.difference(&at_relay).collect();
    assert!(lost.is_empty(), "acknowledged, but not at the relay: {lost:?}");
    let store = open(path);
    let space = store.space(SPACE).unwrap();
    store.connect(link(&relay.url)).unwrap();
    wait_synced(&store);
    wait_synced(peer);
    let total = |store: &Store| store.status().spaces.values().map(|s| s.changes).sum::<u64>();
    let most = total(&store).max(total(peer));
    for replica in [&store, peer] {
        wait_for(replica, "for every change", |status| {
            status.spaces.values().all(|space| space.changes >= most)
        });
    }
    let snapshot = Snapshot::of(&space);
    check_counts(&space, &snapshot);
    assert_eq!(snapshot, Snapshot::of(peer_space));
    assert_eq!(snapshot, fresh_copy(&relay.url, SPACE));
    store.close().unwrap();
    peer.close().unwrap();
}
