//! Everything at once: applications on several threads, a relay that sends, rejects, acknowledges and
//! loses changes, and restarts in between. Whenever all is quiet, the status equals the store's state,
//! and the events match what has happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

use automerge::{ROOT, transaction::Transactable};
use landfall_protocol::client::{Batch, DocumentBatch, Incoming};
use landfall_protocol::frame::Holding;
use landfall_protocol::{Code, DocumentId, Local, Offset};
use landfall_storage::{Committed, WriteError};
use landfall_test_rng::Rng;

use super::status::{stored, told};
use super::store_support::{Author, Bench};
use crate::link::Publisher;
use crate::open_store::OpenStore;
use crate::store::{CompactionOptions, ReceiveError, Received, Refused, SpaceRow};
use crate::{Durability, EventKind, Events, Options, Space, Store, Upstream};

type Written = Result<Committed<Received>, WriteError<ReceiveError>>;

/// Documents that exist or existed; all threads choose among them.
type Known = Arc<Mutex<Vec<DocumentId>>>;

fn any(known: &Known, rng: &mut Rng) -> Option<DocumentId> {
    let known = known.lock().unwrap();
    (!known.is_empty()).then(|| known[rng.below(known.len())])
}

/// One call of an application. It may be rejected: only the status afterwards counts.
fn application(space: &Space, known: &Known, rng: &mut Rng) {
    let what = rng.below(16);
    if what < 3 {
        let made = space.create(|tx| Ok(tx.put(ROOT, "made", 1)?)).unwrap().0;
        return known.lock().unwrap().push(made.id());
    }
    let Some(id) = any(known, rng) else { return };
    match what {
        3..=8 => {
            if let Ok(document) = space.open(id) {
                let _ = document.change(|tx| Ok(tx.put(ROOT, "k", rng.below(100) as i64)?));
                document.status().unwrap();
            }
        }
        9 => space.delete(id).unwrap(),
        10 => space.retry(id).unwrap(),
        // It may have nothing to do, or the document may have changed meanwhile.
        11 => drop(space.reauthor(id)),
        12 => space.merge_unrelated(id).unwrap(),
        13 => space.discard_orphaned(id).unwrap(),
        14 if rng.below(2) == 0 => space.sync_everything().unwrap(),
        14 => space.sync_only([id]).unwrap(),
        _ => drop(space.status()),
    }
}

/// The relay, as the link presents it to the store.
struct Relay {
    open: Arc<OpenStore>,
    publisher: Publisher,
    space: Space,
    row: SpaceRow,
    known: Known,
    rng: Rng,
    /// The end of the store's copy of its log.
    at: u64,
    actors: u16,
    authors: BTreeMap<DocumentId, Author>,
    /// The refusals that it has sent.
    refused: u64,
}

fn wait<T: Send + 'static>(submit: impl FnOnce(crate::store::Done<T>)) -> T {
    let (sender, receiver) = mpsc::channel();
    submit(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap().value
}

impl Relay {
    fn meet(&mut self) {
        let upstream = Upstream::from_bytes([1 + self.rng.below(2) as u8; 16]);
        let met = wait(|done| self.open.context.log.submit_attach(upstream, self.row, done));
        self.at = met.point.cursor.map_or(0, |cursor| cursor.offset.0);
    }

    fn step(&mut self) {
        match self.rng.below(12) {
            0..=3 => self.send(),
            4 => self.tell_document(),
            5 | 6 => self.acknowledge(),
            7 | 8 => self.refuse(),
            9 => self.forget(),
            10 => self.finish(),
            _ => self.meet(),
        }
    }

    /// The completion of a write of received entries.
    fn done(&self) -> (impl FnOnce(Written) + Send + 'static, mpsc::Receiver<bool>) {
        let (publisher, space, row) = (self.publisher.clone(), self.space.name().clone(), self.row);
        let (sender, receiver) = mpsc::channel();
        let done = move |result: Written| {
            let well = result.map(|received| publisher.received(&space, row, received)).is_ok();
            sender.send(well).unwrap();
        };
        (done, receiver)
    }

    /// Another replica's entries: some with missing dependencies, some of an unrelated history, and
    /// deletions.
    fn entries(&mut self) -> Vec<Incoming> {
        let document = match any(&self.known, &mut self.rng) {
            Some(document) if self.rng.below(3) > 0 => document,
            _ => DocumentId::from_bytes(std::array::from_fn(|_| self.rng.below(256) as u8)),
        };
        self.known.lock().unwrap().push(document);
        if self.rng.below(20) == 0 {
            let (offset, author) = (Offset(1), vec![9; 16]);
            return vec![Incoming::Tombstone { offset, document, author, at_ms: 1 }];
        }
        self.actors += 1;
        let actor = self.actors.to_be_bytes()[1];
        let author = self
            .authors
            .entry(document)
            .or_insert_with(|| Author::new(actor, document.as_bytes()[0]));
        author.document = document;
        let (count, skip) = (self.rng.below(4) + 1, self.rng.below(3) / 2);
        let changes = author.puts(count + skip);
        author.incomings(changes[skip..].to_vec())
    }

    fn send(&mut self) {
        let entries = self.entries();
        let Ok(ready) = self.open.context.log.prepare(self.row, entries) else { return };
        let (after, up_to) = (self.at, self.at + 100);
        let batch = Batch {
            space: self.space.name().clone(),
            after: Offset(after),
            cursor: Bench::cursor(up_to),
            entries: Vec::new(),
            bytes: 0,
        };
        let (done, receiver) = self.done();
        self.open.context.log.submit_prepared(self.row, batch, ready, done);
        if receiver.recv().unwrap() {
            self.at = up_to;
        }
    }

    fn tell_document(&mut self) {
        let Some(document) = any(&self.known, &mut self.rng) else { return };
        let ready = self.open.context.log.prepare(self.row, Vec::new()).unwrap();
        let holding = match self.rng.below(4) {
            0 => Holding::Absent,
            _ => {
                let heads =
                    self.open.context.log.heads_of(self.row, &[document]).unwrap().remove(0).heads;
                Holding::Present(heads.iter().map(|head| head.0).collect())
            }
        };
        let (space, entries) = (self.space.name().clone(), Vec::new());
        let batch = DocumentBatch {
            space,
            document,
            holding,
            entries,
            last: true,
            damaged: false,
            bytes: 0,
        };
        let (done, receiver) = self.done();
        self.open.context.log.submit_document(self.row, batch, ready, done);
        receiver.recv().unwrap();
    }

    fn acknowledge(&mut self) {
        let most = self.rng.below(8) + 1;
        let (page, _) = self.open.context.log.outbox(self.row, Local(0), most, 1 << 20).unwrap();
        let locals = page.iter().map(|change| change.local).collect();
        let mark = Bench::mark(1);
        wait(|done| self.open.context.log.submit_acknowledged(self.row, locals, mark, done));
    }

    fn refuse(&mut self) {
        let Some(document) = any(&self.known, &mut self.rng) else { return };
        let what = format!("quota {}", self.rng.below(3));
        let (open, name) = (Arc::clone(&self.open), self.space.name().clone());
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result: Result<_, crate::store::WriteFailure>| {
            let kind = EventKind::Rejected { code: Code::FORBIDDEN, what: String::new() };
            open.context.events.send(&name, document, kind);
            sender.send(result.is_ok()).unwrap();
        });
        self.open.context.log.submit_reject(
            self.row,
            document,
            Refused { code: Code::FORBIDDEN, what, deletion: false },
            done,
        );
        assert!(receiver.recv().unwrap());
        self.refused += 1;
    }

    fn forget(&mut self) {
        if self.rng.below(4) == 0 {
            wait(|done| self.open.context.log.submit_reset(self.row, done));
            self.at = 0;
        } else if let Some(document) = any(&self.known, &mut self.rng) {
            wait(|done| self.open.context.log.submit_requeue(self.row, document, done));
        }
    }

    fn finish(&mut self) {
        let except: Vec<_> = any(&self.known, &mut self.rng).into_iter().collect();
        let through = Local(self.rng.below(200) as u64);
        let cursor = Some(Bench::cursor(self.at + 10));
        let row = self.row;
        wait(|done| {
            self.open.context.log.submit_finish_comparison(row, cursor, through, except, done)
        });
        self.at += 10;
    }
}

/// Checks the events of one opening.
fn check_events(events: &mut Events, space: &Space, before: usize, refused: u64, name: &str) {
    let (mut deleted, mut told_refused) = (BTreeMap::new(), 0);
    while let Some(event) = events.try_next() {
        let event = event.expect("the listener keeps up");
        match event.kind {
            EventKind::Deleted { .. } => *deleted.entry(event.document).or_insert(0) += 1,
            EventKind::Rejected { .. } => told_refused += 1,
            _ => {}
        }
    }
    let all = space.deleted_documents().unwrap();
    let new = &all[before..];
    assert!(deleted.values().all(|times| *times == 1), "{name}: each deletion has one event");
    assert!(new.iter().all(|document| deleted.contains_key(document)), "{name}: each has an event");
    assert_eq!(new.len(), deleted.len(), "{name}: and no other");
    assert_eq!(told_refused, refused, "{name}");
}

fn opening(path: &std::path::Path, known: &Known, seed: u64, name: &str) {
    let durability = [Durability::Full, Durability::Normal][seed as usize % 2];
    let options = Options { durability, compaction: false, events: 1 << 16, ..Options::default() };
    let store = Store::open(path, options).unwrap();
    let space = store.space("s").unwrap();
    assert_eq!(told(&store), stored(&store), "{name}: after the opening");
    let (mut events, before) = (store.events(), space.deleted_documents().unwrap().len());
    let open = Arc::clone(store.open_store());
    let row = open.space(space.name()).unwrap();
    let mut relay = Relay {
        open,
        publisher: store.publisher(),
        space: space.clone(),
        row,
        known: Arc::clone(known),
        rng: Rng::new(seed + 1000),
        at: 0,
        actors: seed as u16 * 31 % 200,
        authors: BTreeMap::new(),
        refused: 0,
    };
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (space, mut rng) = (&space, Rng::new(seed * 10 + thread));
            scope.spawn(move || (0..40).for_each(|_| application(space, known, &mut rng)));
        }
        scope.spawn(|| {
            relay.meet();
            (0..60).for_each(|_| relay.step());
        });
    });
    let open = store.open_store();
    if seed.is_multiple_of(3) {
        crate::compactor::compact(&open.context.log, &CompactionOptions::EVERYTHING).unwrap();
    }
    // Everything committed is on the disk before the two are compared.
    open.context.log.database().sync().unwrap();
    store.watch().until_blocking(|status| status.spaces["s"].not_on_disk == 0).unwrap();
    assert_eq!(told(&store), stored(&store), "{name}");
    let findings = open.context.log.verify().unwrap();
    assert_eq!(findings, [], "{name}: the counts match the store");
    check_events(&mut events, &space, before, relay.refused, name);
    store.close().unwrap();
}

#[test]
fn status_and_events_match_the_store_at_rest() {
    for seed in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::default();
        for round in 0..3 {
            let name = format!("seed {seed}, opening {round}");
            opening(&folder.path().join("s"), &known, seed * 3 + round, &name);
        }
    }
}
