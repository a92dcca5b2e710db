//! The relay's metrics in Prometheus' format. It knows names and numbers, and must not know which module
//! counts.

use std::time::Duration;

use landfall_protocol::Code;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::logs;
use crate::store::{StoreGauges, Verification};

/// One label with a value from a fixed set: a code's name, an outcome. Never a value that a peer chose.
type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// Every metric of a relay.
pub(crate) struct Metrics {
    registry: Registry,
    /// WebSocket sessions now.
    pub(crate) sessions: Gauge,
    /// Spaces whose machine is in memory now.
    pub(crate) spaces: Gauge,
    /// Entries that became durable.
    pub(crate) entries_in: Counter,
    /// Entries that were handed to sessions' sockets.
    pub(crate) entries_out: Counter,
    /// Bytes read from sessions' sockets.
    pub(crate) bytes_in: Counter,
    /// Bytes written to sessions' sockets.
    pub(crate) bytes_out: Counter,
    /// Commands in the hub's queue; set when read.
    pub(crate) hub_queue: Gauge,
    /// Bytes of unanswered pushes; set when read.
    pub(crate) in_flight_bytes: Gauge,
    /// Bytes of the memory budget in use by class, its limit, and the number of waiting reservations; set
    /// when read.
    pub(crate) memory: Family<[(&'static str, &'static str); 1], Gauge>,
    pub(crate) memory_limit: Gauge,
    pub(crate) memory_waiting: Gauge,
    /// 1 while `/readyz` answers 200; set when read.
    pub(crate) ready: Gauge,
    /// Bytes of live entries in the rings of all spaces.
    pub(crate) ring_bytes: Gauge,
    /// Bytes of incomplete snapshot uploads; set when read.
    pub(crate) upload_bytes: Gauge,
    /// Bytes of packed indexes in memory; set when read.
    pub(crate) index_bytes: Gauge,
    /// Packed indexes read from the disk; set when read.
    pub(crate) index_loads: Gauge,
    /// Packed indexes found damaged; set when read.
    pub(crate) damaged_indexes: Gauge,
    /// Damaged places of the store that reads have found; set when read.
    pub(crate) damaged_places: Gauge,
    /// Damaged documents that were repaired with data from clients.
    pub(crate) repaired: Counter,
    /// Uploaded snapshots that were merged.
    pub(crate) snapshots_uploaded: Counter,
    /// Time of the newest scheduled backup, in seconds since 1970; 0 for none.
    pub(crate) last_backup: Gauge,
    /// Of the last recorded verification of the store, and of scheduled copies: its time in seconds since
    /// 1970, 0 for none, and the damaged places that it found; set when read.
    verified: Family<[(&'static str, &'static str); 1], Gauge>,
    verified_damage: Family<[(&'static str, &'static str); 1], Gauge>,
    /// Bytes of the store's files; set when read.
    pub(crate) store_bytes: Gauge,
    /// Bytes that the relay's user can still write on the store's file system; set when read.
    pub(crate) free_bytes: Gauge,
    backups: ByReason,
    ephemeral: ByReason,
    compactions: ByReason,
    compact_time: Histogram,
    commits: ByReason,
    commit_time: Histogram,
    fan_out_time: Histogram,
    rejects: ByReason,
    ended: ByReason,
    refused: ByReason,
}

/// A registry with the build information, the only constant metric.
fn registry() -> Registry {
    let mut registry = Registry::default();
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("landfall_build", "The release that serves", build);
    registry
}

/// Buckets from half a millisecond to 16 s, each twice the previous one.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

/// A code's name; all unknown codes share one series, so that a peer cannot create more.
fn name_of(code: Code) -> &'static str {
    code.name().unwrap_or("other")
}

impl Metrics {
    /// All metrics at zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: registry(),
            sessions: Gauge::default(),
            spaces: Gauge::default(),
            entries_in: Counter::default(),
            entries_out: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            hub_queue: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            memory: Family::default(),
            memory_limit: Gauge::default(),
            memory_waiting: Gauge::default(),
            ready: Gauge::default(),
            ring_bytes: Gauge::default(),
            upload_bytes: Gauge::default(),
            index_bytes: Gauge::default(),
            index_loads: Gauge::default(),
            damaged_indexes: Gauge::default(),
            damaged_places: Gauge::default(),
            repaired: Counter::default(),
            snapshots_uploaded: Counter::default(),
            last_backup: Gauge::default(),
            verified: Family::default(),
            verified_damage: Family::default(),
            store_bytes: Gauge::default(),
            free_bytes: Gauge::default(),
            backups: ByReason::default(),
            ephemeral: ByReason::default(),
            compactions: ByReason::default(),
            compact_time: latency(),
            commits: ByReason::default(),
            commit_time: latency(),
            fan_out_time: latency(),
            rejects: ByReason::default(),
            ended: ByReason::default(),
            refused: ByReason::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = self.registry.sub_registry_with_prefix("landfall_relay");
        r.register("sessions", "WebSocket sessions now", self.sessions.clone());
        r.register("spaces", "Spaces in memory now", self.spaces.clone());
        r.register("entries_in", "Entries that became durable", self.entries_in.clone());
        r.register("entries_out", "Entries sent to sessions", self.entries_out.clone());
        r.register("bytes_in", "Bytes read from sessions", self.bytes_in.clone());
        r.register("bytes_out", "Bytes written to sessions", self.bytes_out.clone());
        r.register("hub_queue", "Commands that wait for the hub", self.hub_queue.clone());
        let help = "Bytes of pushes that are not answered yet";
        r.register("in_flight_bytes", help, self.in_flight_bytes.clone());
        let help = "Bytes of the memory budget in use, by class";
        r.register("memory_bytes", help, self.memory.clone());
        let help = "Bytes of the whole memory budget";
        r.register("memory_limit_bytes", help, self.memory_limit.clone());
        let help = "Reservations that wait for memory";
        r.register("memory_waiting", help, self.memory_waiting.clone());
        r.register("ready", "1 while /readyz answers 200", self.ready.clone());
        let help = "Bytes of live entries cached in memory, of all spaces";
        r.register("ring_bytes", help, self.ring_bytes.clone());
        let help = "Bytes of incomplete snapshot uploads";
        r.register("upload_bytes", help, self.upload_bytes.clone());
        let help = "Bytes of packed indexes in memory";
        r.register("index_bytes", help, self.index_bytes.clone());
        let help = "Packed indexes read from the disk since the start";
        r.register("index_loads", help, self.index_loads.clone());
        let help = "Packed indexes found to be damaged since the start";
        r.register("damaged_indexes", help, self.damaged_indexes.clone());
        let help = "Damaged documents and logs of the store that reads have found";
        r.register("damaged_places", help, self.damaged_places.clone());
        let help = "Damaged documents that were repaired with data from clients";
        r.register("repaired_documents", help, self.repaired.clone());
        let help = "Accepted snapshot uploads";
        r.register("snapshots_uploaded", help, self.snapshots_uploaded.clone());
        let help = "Time of the newest scheduled backup, 0 for none";
        r.register_with_unit(
            "last_backup_timestamp",
            help,
            Unit::Seconds,
            self.last_backup.clone(),
        );
        let help = "Time of the last verification, 0 for none, by what was verified";
        r.register_with_unit("last_verify_timestamp", help, Unit::Seconds, self.verified.clone());
        let help = "Damaged places that the last verification found";
        r.register("last_verify_damage", help, self.verified_damage.clone());
        r.register("backups", "Scheduled backups, by outcome", self.backups.clone());
        r.register("store_bytes", "Bytes of the store's files", self.store_bytes.clone());
        let help = "Bytes that can still be written where the store is";
        r.register("free_bytes", help, self.free_bytes.clone());
        let help = "Ephemeral messages, by outcome; deliveries count once for each receiver";
        r.register("ephemeral", help, self.ephemeral.clone());
        r.register("compactions", "Compactions of documents, by outcome", self.compactions.clone());
        let help = "Duration of a compaction, from reading the store to writing it";
        r.register_with_unit("compaction", help, Unit::Seconds, self.compact_time.clone());
        r.register("commits", "Commits of spaces, by outcome", self.commits.clone());
        let help = "Time from handing a commit to the store until it is durable";
        r.register_with_unit("commit", help, Unit::Seconds, self.commit_time.clone());
        let help =
            "Time from an entry's durability until its page is written to a session's socket";
        r.register_with_unit("fan_out", help, Unit::Seconds, self.fan_out_time.clone());
        r.register("rejects", "Pushes rejected, wholly or in part, by code", self.rejects.clone());
        r.register(
            "log_lines_lost",
            "Log lines dropped because standard error was blocked",
            logs::lost(),
        );
        r.register("sessions_ended", "Sessions that ended, by code", self.ended.clone());
        r.register("requests_refused", "Rejected requests, by reason", self.refused.clone());
    }

    /// Counts a commit that completed after `took`.
    pub(crate) fn committed(&self, outcome: &'static str, took: Duration) {
        self.commits.get_or_create(&[("outcome", outcome)]).inc();
        self.commit_time.observe(took.as_secs_f64());
    }

    /// Counts an ephemeral message: its receivers, or one that was not forwarded.
    pub(crate) fn ephemeral(&self, outcome: &'static str, times: usize) {
        self.ephemeral.get_or_create(&[("outcome", outcome)]).inc_by(times as u64);
    }

    /// Shows the figures of the store. They keep their last values while the store cannot give them.
    pub(crate) fn show_store(&self, store: &StoreGauges) {
        self.show_verified(store.verified.as_ref(), store.copy_verified.as_ref());
        self.index_bytes.set(store.index_bytes as i64);
        self.index_loads.set(store.index_loads as i64);
        self.damaged_indexes.set(store.damaged_indexes as i64);
        self.store_bytes.set(i64::try_from(store.store_bytes).unwrap_or(i64::MAX));
        if let Some(free) = store.free_bytes {
            self.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
    }

    /// Sets time and result of the last verification of the store, and of a copy of it.
    pub(crate) fn show_verified(&self, store: Option<&Verification>, copy: Option<&Verification>) {
        for (of, last) in [("store", store), ("copy", copy)] {
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let (at, damage) = last.map_or((0, 0), |last| (number(last.at), number(last.damage)));
            self.verified.get_or_create(&[("of", of)]).set(at);
            self.verified_damage.get_or_create(&[("of", of)]).set(damage);
        }
    }

    /// Counts a scheduled backup that was made, was verified, or failed.
    pub(crate) fn backups(&self, outcome: &'static str) {
        self.backups.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a compaction that ended after `took`.
    pub(crate) fn compacted(&self, outcome: &'static str, took: Duration) {
        self.compactions.get_or_create(&[("outcome", outcome)]).inc();
        self.compact_time.observe(took.as_secs_f64());
    }

    /// Records that the newest entry of a page was written to a socket `took` after it was durable.
    pub(crate) fn fanned_out(&self, took: Duration) {
        self.fan_out_time.observe(took.as_secs_f64());
    }

    /// Counts a push that was rejected, wholly or in part.
    pub(crate) fn rejected(&self, code: Code) {
        self.rejects.get_or_create(&[("code", name_of(code))]).inc();
    }

    /// Counts an ended session.
    pub(crate) fn session_ended(&self, code: Code) {
        self.ended.get_or_create(&[("code", name_of(code))]).inc();
    }

    /// Counts a request that was rejected before it became a session.
    pub(crate) fn request_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// The text for Prometheus.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_text_has_what_was_counted() {
        let metrics = Metrics::new();
        metrics.committed("durable", Duration::from_millis(3));
        metrics.rejected(Code::STORAGE_FULL);
        metrics.rejected(Code(60_000));
        let text = metrics.text().unwrap();
        for line in [
            "landfall_relay_commits_total{outcome=\"durable\"} 1",
            "landfall_relay_commit_seconds_count 1",
            "landfall_relay_rejects_total{code=\"storage-full\"} 1",
            "landfall_relay_rejects_total{code=\"other\"} 1",
            concat!("landfall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
