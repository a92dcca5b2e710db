//! The relay's readiness, for `/readyz`: written by the hub and by shutdown, read by HTTP. It must not know
//! the hub's work.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::relay::StoreFailure;

use crate::limits;
use crate::store::{Condition, REMEDY, RESTORE};

const GOOD: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;
const STOPPING: u8 = 3;

/// The relay's readiness.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
    /// The hub's.
    pub(crate) hub: Heartbeat,
}

/// A thread's progress, as seen by others: since when it has been at its current step.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    start: Instant,
    /// Milliseconds from `start` to the current step's beginning, plus one; 0 while the thread waits for
    /// work.
    step: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { start: Instant::now(), step: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The thread begins a step.
    pub(crate) fn works(&self) {
        self.step.store(self.now() + 1, Ordering::Release);
    }

    /// The thread waits for work.
    pub(crate) fn waits(&self) {
        self.step.store(0, Ordering::Release);
    }

    /// How long the thread has been at its current step, if that is at least `limit`.
    fn stalled(&self, limit: Duration) -> Option<Duration> {
        let began = self.step.load(Ordering::Acquire).checked_sub(1)?;
        let time = Duration::from_millis(self.now().saturating_sub(began));
        (time >= limit).then_some(time)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Health {
    /// A commit or a probe became durable.
    pub(crate) fn store_works(&self) {
        self.set(GOOD);
    }

    /// A commit or a probe failed.
    pub(crate) fn store_failed(&self, failure: StoreFailure) {
        self.set(match failure {
            StoreFailure::Full => FULL,
            // The store's own condition reports it, and permanently.
            StoreFailure::Damaged => return,
            _ => FAILED,
        });
    }

    /// The relay is being stopped; final.
    pub(crate) fn stopping(&self) {
        self.state.store(STOPPING, Ordering::Release);
    }

    /// Whether the store's last commit or probe failed.
    pub(crate) fn store_is_ill(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), FULL | FAILED)
    }

    /// Why the relay is not ready, one line per reason, the most serious first; `None` if it is ready.
    pub(crate) fn not_ready(&self, store: &Condition) -> Option<String> {
        let gone = store.gone.as_ref().map(|gone| {
            format!(
                "the store's files are gone: {gone}; the relay acknowledges nothing more, and ends"
            )
        });
        let is_damaged = !store.damaged.is_empty() || store.more_damaged;
        let damaged = is_damaged.then(|| damage(store));
        let failing = store
            .failing
            .as_ref()
            .map(|error| format!("reads of the store fail: {error}; check the disk"));
        let fsync = store.fsync_failed.as_ref().map(|error| {
            format!("an fsync failed: {error}; the relay acknowledges nothing more, and ends")
        });
        let writer = store.writer_panicked.as_ref().map(|error| {
            format!(
                "the store's thread ended: {error}; the relay acknowledges nothing more, and ends"
            )
        });
        let hub = self.hub.stalled(limits::HUB_STALLED).map(|time| {
            format!(
                "the hub is stuck for {} s: the relay acknowledges nothing meanwhile",
                time.as_secs()
            )
        });
        let wal = store.wal.as_ref().map(|damage| {
            format!(
                "{damage}; a copy is in relay.db-wal.damaged; clients send back what they have; \
                 check the disk, and restart the relay once you know what was lost"
            )
        });
        let reasons =
            [gone, fsync, writer, hub, self.trouble().map(str::to_owned), damaged, wal, failing];
        let reasons: Vec<String> = reasons.into_iter().flatten().collect();
        (!reasons.is_empty()).then(|| reasons.join("\n"))
    }

    /// Why the relay rejects pushes; `None` if it accepts them.
    fn trouble(&self) -> Option<&'static str> {
        match self.state.load(Ordering::Acquire) {
            GOOD => None,
            FULL => Some("the disk is full: the relay rejects pushes until there is room"),
            FAILED => Some(
                "the store failed: the relay rejects pushes until the store accepts writes again",
            ),
            _ => Some("the relay is being stopped"),
        }
    }

    fn set(&self, state: u8) {
        let keep_stopping = |now| (now != STOPPING).then_some(state);
        // An error means that the relay is stopping, which is final.
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep_stopping);
    }
}

fn damage(store: &Condition) -> String {
    let named = store.damaged.iter().take(limits::DAMAGED_NAMED).map(ToString::to_string);
    let mut named: Vec<String> = named.collect();
    let more = store.damaged.len() - named.len();
    if store.more_damaged {
        named.push("and more than the relay lists".to_owned());
    } else if more > 0 {
        named.push(format!("and {more} more"));
    }
    let remedy = if store.is_unreadable { RESTORE } else { REMEDY };
    format!("the store is damaged: {}; everything else is served; {remedy}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use landfall_protocol::DocumentId;

    use super::*;
    use crate::store::DamagedPlace;

    #[test]
    fn every_reason_is_listed_the_most_severe_first() {
        let health = Health::default();
        assert_eq!(health.not_ready(&Condition::default()), None);
        health.store_failed(StoreFailure::Full);
        let place = |number: u8| DamagedPlace {
            space: "notes".parse().ok(),
            document: Some(DocumentId::from_bytes([number; 16])),
        };
        let condition = Condition {
            gone: Some("/data/relay.db was removed or renamed".to_owned()),
            damaged: (0..limits::DAMAGED_NAMED as u8 + 2).map(place).collect(),
            more_damaged: false,
            is_unreadable: false,
            fsync_failed: None,
            writer_panicked: None,
            wal: None,
            failing: Some("a bad sector".to_owned()),
        };
        let text = health.not_ready(&condition).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, words) in lines.iter().zip([
            "/data/relay.db was removed",
            "disk is full",
            "and 2 more; everything else is served; the relay asks clients for the data",
            "a bad sector",
        ]) {
            assert!(line.contains(words), "{words} in {line}");
        }
        assert!(lines[2].contains(&place(0).to_string()), "{text}");
        assert!(!lines[2].contains(&place(limits::DAMAGED_NAMED as u8).to_string()), "{text}");
    }

    #[test]
    fn a_heartbeat_distinguishes_stalled_work_from_waiting() {
        let heart = Heartbeat::default();
        assert_eq!(heart.stalled(Duration::ZERO), None);
        heart.works();
        assert!(heart.stalled(Duration::ZERO).is_some());
        assert_eq!(heart.stalled(Duration::from_secs(3600)), None);
        heart.waits();
        assert_eq!(heart.stalled(Duration::ZERO), None);
    }

    #[test]
    fn the_last_store_state_counts_until_the_relay_stops() {
        let health = Health::default();
        assert_eq!(health.trouble(), None);
        health.store_failed(StoreFailure::Full);
        assert!(health.trouble().is_some_and(|why| why.contains("full")));
        assert!(health.store_is_ill());
        health.store_works();
        assert_eq!(health.trouble(), None);
        health.stopping();
        health.store_works();
        assert!(health.trouble().is_some_and(|why| why.contains("stopped")));
    }
}
