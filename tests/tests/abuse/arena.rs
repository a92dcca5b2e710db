//! One relay under attack, and what is asked of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall_relay::limits;
use landfall_tests::RaiseOnDrop;
use landfall_tests::http::{get, wait};
use landfall_tests::process::Relay;

use crate::canaries::{self, Rounds};

/// Rounds that each canary makes before the attack, so that it is warm, and how long an attack goes
/// on at least, in rounds of every canary after it began, unless `LANDFALL_ATTACK_ROUNDS` says
/// otherwise: a slow leak shows in a long attack.
const WARM: u64 = 5;
const DURING: u64 = 20;

/// What takes an honest client longer is a hang. It is no figure: an idle machine is some hundred times as
/// fast, and faults that were found here took from 17 s to minutes.
pub(crate) const HANG: Duration = Duration::from_secs(10);

/// What may be left of an attack in the process: what SQLite's caches and the allocator keep.
const LEFT_BYTES: u64 = 48 << 20;

/// The parts that an attack is made of.
pub(crate) struct Attack<'a> {
    /// The relay's port.
    pub(crate) port: u16,
    over: &'a AtomicBool,
    canaries: &'a [Rounds],
    from: Vec<u64>,
    during: u64,
}

impl Attack<'_> {
    /// Whether to go on: until every canary has got on while the attack was on.
    pub(crate) fn goes_on(&self) -> bool {
        let enough = |(rounds, from): (&Rounds, &u64)| rounds.count() >= from + self.during;
        !self.over.load(Ordering::SeqCst) && !self.canaries.iter().zip(&self.from).all(enough)
    }

    /// Waits, with what was begun kept as it is, until [`Attack::goes_on`] says no.
    pub(crate) fn hold(&self) {
        wait("for the honest clients to get on", || !self.goes_on());
    }
}

/// Runs an attack against a relay of its own. The whole process stays within the memory that the operator
/// gave to its sessions.
pub(crate) fn attack(name: &str, attacker: impl FnOnce(&Attack<'_>)) {
    attack_on(name, |_| (), attacker);
}

/// As [`attack`], over a data folder that was prepared.
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
    let told = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.trim_start_matches(name)).collect::<Vec<_>>().join(", ")
    };
    let ended = told("landfall_relay_sessions_ended_total");
    assert!(!ended.contains("malformed"), "{name}: the attack is not what it is called: {ended}");
    // The attacker is gone; what it made the relay keep goes too.
    let back = before + LEFT_BYTES;
    wait("for the memory to return", || resident(relay.pid(), "VmRSS") <= back);
    wait("for its sessions to end", || {
        landfall_tests::http::metric(port, "landfall_relay_sessions") == 0.0
    });
    let after = resident(relay.pid(), "VmRSS");
    let stopping = Instant::now();
    let status = relay.terminate();
    assert!(status.success(), "{name}: SIGTERM ended it with {status}");
    println!("{name}: sessions ended {ended}; rejects {}", told("landfall_relay_rejects_total"));
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

/// Bytes of a figure of a process's memory: `VmRSS` now, `VmHWM` at its peak.
fn resident(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the relay runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kib =
        line.and_then(|line| line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok());
    kib.expect("Linux tells it in kB") * 1024
}

/// Processor time that a process has used.
fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.expect("the relay runs");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The attacker has no more of the machine than the relay and the honest clients leave it.
fn lower_priority() {
    // In Linux it is the thread's alone.
    let lowered = rustix::process::setpriority_process(None, 19);
    lowered.expect("every thread may lower its priority");
}
