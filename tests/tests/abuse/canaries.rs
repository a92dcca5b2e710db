//! Honest clients: each repeats the same small task with pauses, and measures it. They know no
//! attack.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::automerge::ActorId;
use landfall_protocol::DocumentId;
use landfall_protocol::frame::Frame;
use landfall_tests::raw::{Client, Typist};
use landfall_tests::repo::Peer;

/// The pause between two rounds: an honest client does not saturate the machine.
const PAUSE: Duration = Duration::from_millis(20);

/// A kind of honest client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Canary {
    /// Pushes a change over one session, and waits for its ack.
    Native,
    /// Types into an automerge document, and waits until the relay announces its heads.
    Repo,
    /// Connects, subscribes, pushes, and leaves.
    Fresh,
}

/// All kinds.
pub(crate) const ALL: [Canary; 3] = [Canary::Native, Canary::Repo, Canary::Fresh];

/// The durations of a canary's rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    all: Mutex<(u64, Vec<Duration>)>,
}

impl Rounds {
    /// The number of rounds.
    pub(crate) fn count(&self) -> u64 {
        self.all.lock().unwrap().0
    }

    /// Drops the measurements so far.
    pub(crate) fn restart(&self) {
        self.all.lock().unwrap().1.clear();
    }

    fn add(&self, began: Instant) {
        let mut all = self.all.lock().unwrap();
        all.0 += 1;
        all.1.push(began.elapsed());
    }

    /// The 99th percentile, or the maximum.
    fn p99(&self) -> Duration {
        let mut times = self.all.lock().unwrap().1.clone();
        times.sort();
        let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
        times.get(at).copied().unwrap_or_default()
    }
}

/// The 99th percentile of each canary.
pub(crate) fn worst(rounds: &[Rounds]) -> Vec<Duration> {
    rounds.iter().map(Rounds::p99).collect()
}

/// Formatted as `native 3 ms, …`.
pub(crate) fn shown(times: &[Duration]) -> String {
    let each =
        ALL.iter().zip(times).map(|(canary, time)| format!("{canary:?} {} ms", time.as_millis()));
    each.collect::<Vec<_>>().join(", ")
}

impl Canary {
    /// Makes rounds until `over` is set. Fails the test if a round fails, or takes longer than a
    /// client waits.
    pub(crate) fn run(self, port: u16, over: &AtomicBool, rounds: &Rounds) {
        match self {
            Self::Native => native(port, over, rounds),
            Self::Repo => repo(port, over, rounds),
            Self::Fresh => fresh(port, over, rounds),
        }
    }
}

fn pause() {
    // sleep: between two rounds, as a person who types; nothing is waited for
    std::thread::sleep(PAUSE);
}

fn native(port: u16, over: &AtomicBool, rounds: &Rounds) {
    let mut client = Client::start_from(port, "canaries");
    let mut typist = Typist::new(ActorId::from([0xca; 16]));
    let document = DocumentId::from_bytes([0xca; 16]);
    for id in 1.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let change = typist.type_one();
        let began = Instant::now();
        let answer = client.push(id, document, &[change]);
        assert!(
            matches!(answer, Frame::Ack(_)),
            "the relay answered an honest push with {answer:?}"
        );
        rounds.add(began);
        pause();
    }
}

fn fresh(port: u16, over: &AtomicBool, rounds: &Rounds) {
    let mut typist = Typist::new(ActorId::from([0xcb; 16]));
    let document = DocumentId::from_bytes([0xcb; 16]);
    while !over.load(Ordering::SeqCst) {
        let change = typist.type_one();
        let began = Instant::now();
        let mut client = Client::start_from(port, "fresh");
        let answer = client.push(1, document, &[change]);
        assert!(
            matches!(answer, Frame::Ack(_)),
            "the relay answered an honest push with {answer:?}"
        );
        rounds.add(began);
        pause();
    }
}

fn repo(port: u16, over: &AtomicBool, rounds: &Rounds) {
    let mut peer = Peer::new("canary", DocumentId::from_bytes([0xcc; 16]));
    let reported = Mutex::default();
    peer.type_one();
    let mut began = Instant::now();
    peer.sync(port, &reported, |peer| {
        let heads = peer.doc.get_heads();
        if reported.lock().unwrap().contains(&heads[0]) {
            rounds.add(began);
            pause();
            peer.type_one();
            began = Instant::now();
        }
        assert!(
            began.elapsed() < landfall_tests::PATIENCE,
            "the automerge-repo client received no answer"
        );
        !over.load(Ordering::SeqCst)
    });
}
