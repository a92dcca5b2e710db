//! Edits that many clients receive: the cost at the server, and the latency at a reader.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use automerge::sync::Message;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval_at, sleep};

use super::link::Link;
use super::processes::Peak;
use super::replica;
use super::server::{Kind, Server};
use super::sparse::Sparse;
use super::table::Metric;
use super::wire::{self, Said};
use super::world::World;

/// How long clients may take to be answered, and to receive everything after the last edit.
const CATCH_UP: Duration = Duration::from_secs(60);

/// One measurement.
#[derive(Clone, Copy)]
pub struct Scene {
    /// The prefix of the figures' names.
    pub name: &'static str,
    /// Connections on the document. The last one only reads, and its frames are timed.
    pub clients: usize,
    /// Edits per second, made by all other clients in turn.
    pub rate: u32,
    /// Number of changes in the initial document.
    pub length: usize,
    pub warm: Duration,
    pub measured: Duration,
    /// Whether to report the costs at the server too.
    pub costs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Editing,
    Draining,
    Over,
}

struct Shared {
    scene: Scene,
    port: u16,
    document: String,
    world: Mutex<World>,
    ready: AtomicUsize,
    /// Changes that reached clients other than their authors.
    delivered: AtomicU64,
    phase: watch::Receiver<Phase>,
}

/// The reader's record.
#[derive(Default)]
struct Seen {
    /// When each edit was made, and its latency at the reader.
    edits: Vec<(Instant, Duration)>,
    /// All received chunks, for automerge to check at the end.
    chunks: Vec<Vec<u8>>,
}

/// The measurements besides the reader's record.
struct Measured {
    from: Moment,
    to: Moment,
    peak_mib: f64,
    /// Time from the last edit until all clients had everything, if that happened.
    caught_up: Option<Duration>,
}

struct Moment {
    at: Instant,
    processor: Duration,
    delivered: u64,
    own: Duration,
}

/// Runs a scene against a server of this kind.
pub fn run(kind: Kind, scene: Scene) -> Result<Vec<Metric>, String> {
    let server = Server::start(kind)?;
    let world = World::new(scene.length, scene.clients);
    let runtime = runtime();
    runtime.block_on(replica::upload(server.port, &world.document, &world.base))?;
    server.settle();
    let (phase, phases) = watch::channel(Phase::Joining);
    let shared = Arc::new(Shared {
        scene,
        port: server.port,
        document: world.document.clone(),
        world: Mutex::new(world),
        ready: AtomicUsize::new(0),
        delivered: AtomicU64::new(0),
        phase: phases,
    });
    let for_reader = Arc::clone(&shared);
    // On a separate thread, so that other clients' work does not affect its times.
    let reader =
        std::thread::spawn(move || self::runtime().block_on(client(for_reader, scene.clients - 1)));
    let measured = runtime.block_on(conduct(&shared, &phase, &server))?;
    let seen = reader.join().map_err(|_| "the reader panicked")??;
    if measured.caught_up.is_some() {
        verify(&shared, &seen)?;
    }
    Ok(figures(&shared, &server, &times(&shared, &seen, &measured), &measured))
}

/// The latency at the reader of each edit in the measured period, in order; infinite for edits that
/// never arrived.
fn times(shared: &Shared, seen: &Seen, measured: &Measured) -> Vec<Duration> {
    let counts = |made: &Instant| (measured.from.at..measured.to.at).contains(made);
    let came = seen.edits.iter().filter(|(made, _)| counts(made)).map(|(_, took)| *took);
    let mut times: Vec<Duration> = came.collect();
    let all = shared.world.lock().unwrap().count(counts);
    times.resize(all.max(times.len()), Duration::MAX);
    times.sort();
    times
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Leads the clients through the phases; returns the start and end of the measured period.
async fn conduct(
    shared: &Arc<Shared>,
    phase: &watch::Sender<Phase>,
    server: &Server,
) -> Result<Measured, String> {
    let scene = shared.scene;
    let mut clients = JoinSet::new();
    for me in 0..scene.clients - 1 {
        clients.spawn(client(Arc::clone(shared), me));
    }
    let ready = || shared.ready.load(Ordering::SeqCst) == scene.clients;
    if wait_for(ready, &mut clients).await?.is_none() {
        return Err(format!("not all clients were answered within {CATCH_UP:?}"));
    }
    // Waits for the last acknowledgements of the start phase.
    sleep(Duration::from_secs(1)).await;
    phase.send_replace(Phase::Editing);
    sleep(scene.warm).await;
    let peak = Peak::watch(server.pid());
    let from = moment(shared, server);
    sleep(scene.measured).await;
    let to = moment(shared, server);
    let peak_mib = peak.mib();
    phase.send_replace(Phase::Draining);
    let all = || {
        let made = shared.world.lock().unwrap().made();
        shared.delivered.load(Ordering::SeqCst) == made * (scene.clients as u64 - 1)
    };
    let caught_up = wait_for(all, &mut clients).await?;
    phase.send_replace(Phase::Over);
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(Measured { from, to, peak_mib, caught_up })
}

fn moment(shared: &Shared, server: &Server) -> Moment {
    Moment {
        at: Instant::now(),
        processor: server.processor_time(),
        delivered: shared.delivered.load(Ordering::SeqCst),
        own: super::processes::processor_time(std::process::id()) - server.processor_time(),
    }
}

/// Waits for a condition, at most [`CATCH_UP`]; returns how long it took.
async fn wait_for(
    reached: impl Fn() -> bool,
    clients: &mut JoinSet<Result<Seen, String>>,
) -> Result<Option<Duration>, String> {
    let began = Instant::now();
    while !reached() {
        if let Some(ended) = clients.try_join_next() {
            ended.map_err(|error| error.to_string())??;
        }
        if began.elapsed() > CATCH_UP {
            return Ok(None);
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(Some(began.elapsed()))
}

async fn client(shared: Arc<Shared>, me: usize) -> Result<Seen, String> {
    let reads_only = me == shared.scene.clients - 1;
    let mut link = Link::join(shared.port, &format!("client-{me}"), None).await?;
    let mut sparse = Sparse::new(&shared.world.lock().unwrap(), me);
    let mut seen = Seen::default();
    say(&shared, &mut sparse, &mut link).await?;
    let mut phases = shared.phase.clone();
    let mut ticker: Option<Interval> = None;
    let mut is_ready = false;
    loop {
        let tick = async {
            match &mut ticker {
                Some(ticker) => ticker.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            bytes = link.next_at_any_time() => {
                let bytes = bytes?;
                if take(&shared, &mut sparse, &bytes, reads_only.then_some(&mut seen))? {
                    say(&shared, &mut sparse, &mut link).await?;
                    if !std::mem::replace(&mut is_ready, true) {
                        shared.ready.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            _ = tick => {
                sparse.edit(&mut shared.world.lock().unwrap());
                say(&shared, &mut sparse, &mut link).await?;
            }
            _ = phases.changed() => match *phases.borrow_and_update() {
                Phase::Editing if !reads_only => ticker = Some(turns(shared.scene, me)),
                Phase::Draining => ticker = None,
                Phase::Over => return Ok(seen),
                _ => {}
            },
        }
    }
}

/// When a client edits: the clients take turns, so that edits are evenly spaced.
fn turns(scene: Scene, me: usize) -> Interval {
    let one = Duration::from_secs(1) / scene.rate;
    let editors = scene.clients as u32 - 1;
    let begin = tokio::time::Instant::now() + one * (me as u32 + 1);
    let mut turns = interval_at(begin, one * editors);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns
}

async fn say(shared: &Shared, sparse: &mut Sparse, link: &mut Link) -> Result<(), String> {
    let message = sparse.generate(&shared.world.lock().unwrap());
    if let Some(data) = message {
        let message = link.sync("sync", &shared.document, &data);
        link.send(message).await?;
    }
    Ok(())
}

/// Returns whether it was a sync message, which needs an answer.
fn take(
    shared: &Shared,
    sparse: &mut Sparse,
    bytes: &[u8],
    seen: Option<&mut Seen>,
) -> Result<bool, String> {
    let arrived = Instant::now();
    let data = match wire::decode(bytes) {
        Said::Sync { document, data } if document == shared.document => data,
        Said::Unavailable(_) => return Err("the document is unavailable".to_owned()),
        Said::Error(text) => return Err(text.to_owned()),
        _ => return Ok(false),
    };
    let message = Message::decode(data).map_err(|error| error.to_string())?;
    let world = shared.world.lock().unwrap();
    let chunks: Option<Vec<Vec<u8>>> =
        seen.is_some().then(|| message.changes.iter().map(<[u8]>::to_vec).collect());
    let new = sparse.receive(&world, message);
    shared.delivered.fetch_add(new.len() as u64, Ordering::SeqCst);
    if let Some(seen) = seen {
        seen.chunks.extend(chunks.unwrap_or_default());
        let made = new.iter().map(|&number| world.change(number).made);
        seen.edits.extend(made.map(|made| (made, arrived.duration_since(made))));
    }
    Ok(true)
}

/// Checks with automerge that the reader received the document that was typed.
fn verify(shared: &Shared, seen: &Seen) -> Result<(), String> {
    let mut world = shared.world.lock().unwrap();
    let expected = world.heads();
    let loaded = world.base.load_incremental(&seen.chunks.concat());
    loaded.map_err(|error| format!("the received changes do not load: {error}"))?;
    match world.base.get_heads() == expected {
        true => Ok(()),
        false => Err("the received text differs from the typed text".to_owned()),
    }
}

fn figures(
    shared: &Shared,
    server: &Server,
    times: &[Duration],
    measured: &Measured,
) -> Vec<Metric> {
    let (scene, from, to) = (shared.scene, &measured.from, &measured.to);
    let name = scene.name;
    let ms = |time: Duration| match time {
        Duration::MAX => f64::INFINITY,
        time => time.as_secs_f64() * 1e3,
    };
    let at = |percent: usize| {
        let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(place).map_or(f64::NAN, |time| ms(*time))
    };
    let processor = (to.processor - from.processor).as_secs_f64();
    let seconds = (to.at - from.at).as_secs_f64();
    let edits = (to.delivered - from.delivered) as f64 / (scene.clients as f64 - 1.0);
    let own = (to.own.saturating_sub(from.own)).as_secs_f64() / seconds;
    eprintln!("   ({edits:.0} edits in {seconds:.1} s; the load client took {own:.2} of a core)");
    let mut metrics = Vec::new();
    if scene.costs {
        let each = format!("{name}: edits fanned out per server CPU-second");
        metrics.push(Metric::higher(each, "edits", edits / processor));
    }
    let cores = processor / seconds;
    let behind = measured.caught_up.map_or(f64::INFINITY, |took| took.as_secs_f64());
    metrics.extend([
        Metric::lower(format!("{name}: edit → frame at the reader, p50"), "ms", at(50)),
        Metric::lower(format!("{name}: edit → frame at the reader, p99"), "ms", at(99)),
        Metric::lower(format!("{name}: server CPU"), "cores", cores),
    ]);
    if scene.costs {
        let above = server.above_empty(measured.peak_mib);
        metrics.extend([
            Metric::lower(format!("{name}: last edit → all clients have everything"), "s", behind),
            Metric::lower(format!("{name}: memory above empty, peak"), "MiB", above),
        ]);
    }
    metrics
}
