//! A store with random operations: after each step it has no fault, and in the end its documents equal
//! documents that were never in a store.

use std::collections::BTreeMap;

use automerge::ReadDoc;
use landfall_protocol::admission::CheckedChange;
use landfall_protocol::client::{Incoming, OutboxKind};
use landfall_protocol::frame::Holding;
use landfall_protocol::{DocumentId, Offset};
use landfall_test_rng::Rng;

use super::store_support::{Author, Bench, id};
use crate::store::CompactionOptions;

/// A model of a relay that keeps only the facts.
#[derive(Default)]
struct Relay {
    documents: BTreeMap<DocumentId, Author>,
    deleted: Vec<DocumentId>,
    /// Changes that it has and has not sent to the store.
    news: Vec<(DocumentId, CheckedChange)>,
}

struct World {
    rng: Rng,
    bench: Bench,
    relays: [Relay; 2],
    at: usize,
    /// The expected contents of the store.
    ours: BTreeMap<DocumentId, Author>,
    actors: u8,
}

const DOCUMENTS: usize = 4;

impl World {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new();
        bench.meet(1);
        let ours = (1..=DOCUMENTS as u8).map(|n| (id(n), Author::new(n, n))).collect();
        let rng = Rng::new(seed);
        Self { rng, bench, relays: Default::default(), at: 0, ours, actors: 10 }
    }

    fn document(&mut self) -> DocumentId {
        id(self.rng.below(DOCUMENTS) as u8 + 1)
    }

    fn is_deleted(&self, document: DocumentId) -> bool {
        self.bench.log.deleted(self.bench.space, &document).unwrap()
    }

    fn step(&mut self) {
        match self.rng.below(12) {
            0..=3 => self.edit(),
            4 | 5 => self.edit_elsewhere(),
            6 => self.push(),
            7 => self.pull(),
            8 => {
                let recent_entries = self.rng.below(20) as u64;
                let options = CompactionOptions { recent_entries, ..CompactionOptions::EVERYTHING };
                crate::compactor::compact(&self.bench.log, &options).unwrap();
            }
            9 => drop(self.bench.log.sweep(3).unwrap()),
            10 => self.compare(),
            _ if self.rng.below(8) == 0 => self.switch(),
            _ if self.rng.below(30) == 0 => self.delete(),
            _ => self.snapshot(),
        }
    }

    fn edit(&mut self) {
        let document = self.document();
        if self.is_deleted(document) {
            return;
        }
        let count = self.rng.below(6) + 1;
        let Some(author) = self.ours.get_mut(&document) else { return };
        let changes = author.puts(count);
        self.bench.append_all(document, &changes);
    }

    /// Another client writes to the relay.
    fn edit_elsewhere(&mut self) {
        let document = self.document();
        let count = self.rng.below(5) + 1;
        self.actors += 1;
        let actor = self.actors;
        let relay = &mut self.relays[self.at];
        if relay.deleted.contains(&document) {
            return;
        }
        let Some(known) = relay.documents.get_mut(&document) else { return };
        let mut author = known.fork(actor);
        let changes = author.puts(count);
        known.merge(&mut author);
        relay.news.extend(changes.into_iter().map(|change| (document, change)));
    }

    /// Pushes the outbox to the relay, as far as it accepts.
    fn push(&mut self) {
        let most = self.rng.below(12) + 1;
        for change in self.bench.outbox().into_iter().take(most) {
            let relay = &mut self.relays[self.at];
            let document = change.document;
            let fresh = Author::new(200, document.as_bytes()[0]);
            match change.what {
                OutboxKind::Tombstone => {
                    relay.deleted.push(document);
                    relay.documents.remove(&document);
                    relay.news.retain(|(other, _)| *other != document);
                    self.bench.acknowledge([change.local.0]);
                }
                OutboxKind::Change(body, _) => {
                    let known = relay.documents.entry(document).or_insert(fresh);
                    known.doc.load_incremental(&body).unwrap();
                    assert_eq!(known.doc.get_missing_deps(&[]), [], "it arrives in order");
                    self.bench.acknowledge([change.local.0]);
                }
                OutboxKind::Snapshot { hash, .. } => {
                    let log = &self.bench.log;
                    let body = log.snapshot_body(self.bench.space, &document, &hash).unwrap();
                    let known = relay.documents.entry(document).or_insert(fresh);
                    known.doc.load_incremental(&body.unwrap()).unwrap();
                    let (sender, receiver) = std::sync::mpsc::channel();
                    let done = Box::new(move |done| sender.send(done).unwrap());
                    let (space, mark) = (self.bench.space, Bench::mark(1));
                    log.submit_snapshot_acknowledged(space, document, hash, mark, done);
                    receiver.recv().unwrap().unwrap();
                }
            }
        }
    }

    /// The relay's changes of others arrive, sometimes out of order.
    fn pull(&mut self) {
        let new_changes = std::mem::take(&mut self.relays[self.at].news);
        let mut entries: Vec<Incoming> = new_changes
            .into_iter()
            .map(|(document, change)| {
                let deleted = self.bench.log.deleted(self.bench.space, &document).unwrap();
                if let Some(ours) = self.ours.get_mut(&document).filter(|_| !deleted) {
                    ours.doc.load_incremental(&change.bytes).unwrap();
                }
                Author::new(1, document.as_bytes()[0]).incoming(change)
            })
            .collect();
        if self.rng.below(3) == 0 && entries.len() > 1 {
            entries.reverse();
        }
        self.bench.receive(entries);
    }

    /// The relay sends its snapshot of a document.
    fn snapshot(&mut self) {
        let document = self.document();
        let Some(known) = self.relays[self.at].documents.get_mut(&document) else { return };
        if known.doc.get_heads().is_empty() {
            return;
        }
        let snapshot = known.snapshot();
        if let Some(ours) = self.ours.get_mut(&document)
            && !self.bench.log.deleted(self.bench.space, &document).unwrap()
        {
            ours.merge(known);
        }
        self.bench.receive(vec![snapshot]);
    }

    /// The two ends compare their documents.
    fn compare(&mut self) {
        let through = self.bench.reset();
        self.bench.check();
        let mut except = Vec::new();
        for document in (1..=DOCUMENTS as u8).map(id) {
            let relay = &mut self.relays[self.at];
            if relay.deleted.contains(&document) {
                except.push(document);
                let (offset, author, at_ms) = (Offset(1), vec![1], 1);
                let entries = vec![Incoming::Tombstone { offset, document, author, at_ms }];
                self.bench.receive_apart(document, Holding::Deleted, entries);
                continue;
            }
            let heads = relay.documents.get(&document).map(Author::heads).unwrap_or_default();
            if heads == self.bench.heads(document) && !self.is_deleted(document) {
                continue;
            }
            except.push(document);
            if self.rng.below(5) == 0 {
                continue;
            }
            let relay = &mut self.relays[self.at];
            let (mut entries, mut holding) = (Vec::new(), Holding::Absent);
            if let Some(known) = relay.documents.get_mut(&document) {
                holding = Holding::Present(heads.iter().map(|head| head.0).collect());
                let have = self.bench.heads(document);
                let missing = known.doc.get_changes(&have);
                entries = missing
                    .iter()
                    .map(|change| landfall_protocol::admission::preflight(change.raw_bytes()))
                    .map(|change| Author::new(1, document.as_bytes()[0]).incoming(change.unwrap()))
                    .collect();
                if !self.bench.log.deleted(self.bench.space, &document).unwrap()
                    && let Some(ours) = self.ours.get_mut(&document)
                {
                    ours.merge(known);
                }
            }
            self.bench.receive_apart(document, holding, entries);
            self.bench.check();
        }
        self.bench.finish_comparison(through.0, except);
    }

    fn switch(&mut self) {
        self.at = 1 - self.at;
        self.bench.meet(self.at as u8 + 1);
    }

    fn delete(&mut self) {
        let document = self.document();
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Box::new(move |done| sender.send(done).unwrap());
        self.bench.log.submit_delete(self.bench.space, document, 1, done);
        receiver.recv().unwrap().unwrap();
    }

    fn check(&self) {
        self.bench.check();
        for (document, author) in &self.ours {
            let heads = if self.is_deleted(*document) { vec![] } else { author.heads() };
            assert_eq!(self.bench.heads(*document), heads, "{document}");
        }
    }
}

#[test]
fn random_operations_leave_a_consistent_store() {
    let seeds = std::env::var("LANDFALL_SEEDS").map_or(4, |seeds| seeds.parse().unwrap());
    for seed in 1..=seeds {
        let mut world = World::new(seed);
        for _ in 0..100 {
            world.step();
            world.check();
        }
        world.pull();
        for document in world.ours.keys() {
            let doc = world.bench.load(*document);
            if !world.is_deleted(*document) {
                assert_eq!(Author::shows(&doc), Author::shows(&world.ours[document].doc));
            }
        }
    }
}
