//! One relay under attack, and the checks on it. It knows no single attack.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall_relay::limits;
use landfall_tests::RaiseOnDrop;
use landfall_tests::http::{get, wait};
use landfall_tests::process::Relay;

use crate::canaries::{self, Rounds};

/// Rounds of each canary before the attack, so that it is warm, and the minimum duration of an
/// attack in rounds of every canary, unless `LANDFALL_ATTACK_ROUNDS` sets another: a slow leak
/// shows in a long attack.
const WARM: u64 = 5;
const DURING: u64 = 20;

/// A round of an honest client that takes longer is a hang. It is no performance target: an idle
/// machine is some hundred times as fast, and the faults found here took from 17 s to minutes.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// Memory in bytes that the process may still have after an attack: SQLite's caches and the
/// allocator's.
const LEFT_BYTES: u64 = 48 << 20;

/// An attack's access to the relay and to its end.
pub(crate) struct Attack<'a> {
    /// The relay's port.
    pub(crate) port: u16,
    over: &'a AtomicBool,
    canaries: &'a [Rounds],
    from: Vec<u64>,
    during: u64,
}

impl Attack<'_> {
    /// Whether to go on: until every canary has made enough rounds during the attack.
    pub(crate) fn goes_on(&self) -> bool {
        let enough = |(rounds, from): (&Rounds, &u64)| rounds.count() >= from + self.during;
        !self.over.load(Ordering::SeqCst) && !self.canaries.iter().zip(&self.from).all(enough)
    }

    /// Waits, with everything kept open, until [`Attack::goes_on`] returns false.
    pub(crate) fn hold(&self) {
        wait("for the honest clients to make progress", || !self.goes_on());
    }
}

/// Runs an attack against a relay of its own. The whole process must stay within the memory budget
/// that the operator configured.
pub(crate) fn attack(name: &str, attacker: impl FnOnce(&Attack<'_>)) {
    attack_on(name, |_| (), attacker);
}

/// As [`attack`], with a prepared data folder.
pub(crate) fn attack_on(
    name: &str,
    prepare: impl FnOnce(&Path),
    attacker: impl FnOnce(&Attack<'_>),
) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    prepare(&data);
    let relay = Relay::start(&data, 0);
    let port = relay.port;
    let over = AtomicBool::new(false);
    let before = resident(relay.pid(), "VmRSS");
    let rounds = canaries::ALL.map(|_| Rounds::default());
    let (idle, under, attacked) = std::thread::scope(|scope| {
        let _end = RaiseOnDrop(&over);
        for (canary, rounds) in canaries::ALL.into_iter().zip(&rounds) {
            let over = &over;
            scope.spawn(move || canary.run(port, over, rounds));
        }
        wait("for the honest clients to begin", || rounds.iter().all(|r| r.count() >= WARM));
        let idle = canaries::worst(&rounds);
        let from: Vec<u64> = rounds.iter().map(Rounds::count).collect();
        rounds.iter().for_each(Rounds::restart);
        let used = processor(relay.pid());
        let began = Instant::now();
        lower_priority();
        attacker(&Attack { port, over: &over, canaries: &rounds, from, during: during() });
        let attacked = (processor(relay.pid()) - used, began.elapsed());
        (idle, canaries::worst(&rounds), attacked)
    });
    let shown = canaries::shown(&under);
    assert!(under.iter().all(|p99| *p99 < HANG), "{name}: honest clients hang: {shown}");
    assert_eq!(get(port, "/healthz").0, 200, "{name}: the relay lives");
    let (budget, peak) = (limits::MEMORY_BYTES as u64, resident(relay.pid(), "VmHWM"));
    assert!(peak <= budget, "{name}: {} MiB at its peak", peak >> 20);
    let metrics = get(port, "/metrics").1;
    let value = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.trim_start_matches(name)).collect::<Vec<_>>().join(", ")
    };
    let ended = value("landfall_relay_sessions_ended_total");
    assert!(!ended.contains("malformed"), "{name}: sessions ended as malformed: {ended}");
    // The attacker is gone: the relay must free its memory.
    let back = before + LEFT_BYTES;
    wait("for the memory to return", || resident(relay.pid(), "VmRSS") <= back);
    wait("for its sessions to end", || {
        landfall_tests::http::metric(port, "landfall_relay_sessions") == 0.0
    });
    let after = resident(relay.pid(), "VmRSS");
    let stopping = Instant::now();
    let status = relay.terminate();
    assert!(status.success(), "{name}: SIGTERM ended it with {status}");
    println!("{name}: sessions ended {ended}; rejects {}", value("landfall_relay_rejects_total"));
    println!(
        "{name}: p99 of honest rounds {} idle, {} under attack; relay's CPU {:.1} s in {:.1} s; \
         resident {} MiB before, {} at its peak, {} after; SIGTERM took {:.1} s",
        canaries::shown(&idle),
        shown,
        attacked.0.as_secs_f64(),
        attacked.1.as_secs_f64(),
        before >> 20,
        peak >> 20,
        after >> 20,
        stopping.elapsed().as_secs_f64(),
    );
}

fn during() -> u64 {
    let given = std::env::var("LANDFALL_ATTACK_ROUNDS").ok();
    given.and_then(|rounds| rounds.parse().ok()).unwrap_or(DURING)
}

/// Bytes of a process's memory: `VmRSS` is the present value, `VmHWM` the peak.
fn resident(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the relay runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kib =
        line.and_then(|line| line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok());
    kib.expect("Linux reports it in kB") * 1024
}

/// The processor time of a process.
fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.expect("the relay runs");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Lets the attacker use only the processor time that the relay and the honest clients leave.
fn lower_priority() {
    // On Linux, the priority is the thread's alone.
    let lowered = rustix::process::setpriority_process(None, 19);
    lowered.expect("every thread may lower its priority");
}
