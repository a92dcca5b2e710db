//! The command `replay`: types a recorded or synthetic editing session, one change per transaction, from one
//! replica to another through a relay.

mod together;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use landfall::automerge::ObjId;
use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::{BoxError, Document, Durability, LinkOptions};

use crate::args::ReplayArgs;
use crate::failure::{self, Exit, Failure};
use crate::generate::{self, Author};
use crate::note;
use crate::place::NotebookPlace;
use crate::progress::Bars;
use crate::replica::{self, Replica, until_same};
use crate::scratch::{self, Scratch};
use crate::term::{count, good, rate, say, thousands, time};
use crate::trace::{Patch, Recorded, Trace};
use crate::wait::Waiter;

/// Changes between updates of the clock and the bars.
const LOOK: u64 = 32;

/// The session to play.
enum Script {
    Recorded(Recorded),
    MadeUp { seed: u64, edits: u64 },
}

/// Runs the command.
pub(crate) fn run(place: &NotebookPlace, args: &ReplayArgs) -> Result<(), Failure> {
    let script = match &args.trace {
        Some(path) => Script::Recorded(Recorded::read(path)?),
        None => {
            let seed = args.seed.unwrap_or_else(generate::seed);
            Script::MadeUp { seed, edits: u64::from(args.edits) }
        }
    };
    let durability = if args.full { Durability::Full } else { Durability::Normal };
    // Only a relay named on the command line: the default one's disk must not be filled by accident.
    let relay = place.relay.clone().map(|url| place.link_options(url));
    let (quiet, stall) = (place.quiet, args.stall);
    scratch::run("replay", move |scratch| {
        let set = |names: &[&'static str]| {
            let mut stage = Stage::set(scratch, relay, durability, names, quiet)?;
            stage.replicas.iter_mut().for_each(|replica| replica.patience = stall);
            Ok::<_, Failure>(stage)
        };
        match &script {
            Script::Recorded(Recorded::Alone(trace)) => set(&["Writer", "Reader"])?.recorded(trace),
            Script::Recorded(Recorded::Together(trace)) => {
                together::play(&set(together::names(trace))?, trace)
            }
            Script::MadeUp { seed, edits } => set(&["Writer", "Reader"])?.made_up(*seed, *edits),
        }
    })
}

/// Replicas that sync through a relay.
struct Stage {
    waiter: Waiter,
    replicas: Vec<Replica>,
    quiet: bool,
}

/// A note that every replica has open.
struct SharedNote {
    /// One handle per replica, in their order.
    documents: Vec<Document>,
    body: ObjId,
}

/// Measured times.
struct Times {
    typed: Duration,
    durable: Duration,
    arrived: Duration,
}

impl Stage {
    fn set(
        scratch: &Scratch,
        relay: Option<LinkOptions>,
        durability: Durability,
        names: &[&'static str],
        quiet: bool,
    ) -> Result<Self, Failure> {
        let (link, own) = match relay {
            Some(link) => (link, false),
            None => (LinkOptions::new(scratch.start_relay()?.0), true),
        };
        // A fresh space, so that earlier replays there need not be synced.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let space = format!("replay-{:x}", now.as_micros());
        let open = |name| Replica::open(scratch.path(), name, &space, durability);
        let replicas = names.iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?;
        for replica in &replicas {
            replica.store.connect(link.clone())?;
        }
        if !quiet {
            let whose = if own { "a relay started for this at " } else { "" };
            say(format!("through {whose}{}", link.url));
        }
        Ok(Self { waiter: Waiter::new()?, replicas, quiet })
    }

    fn recorded(&self, trace: &Trace) -> Result<(), Failure> {
        let SharedNote { documents, body } = self.note("Replay", &trace.start)?;
        let (note, reader) = (&documents[0], &self.replicas[1]);
        let total = trace.len();
        self.say(format!("{} by one author, one change each", count(total, "transaction")));
        let bars = Bars::new(self.quiet);
        let (typed, arrived) = (bars.bar("typed", total), bars.bar("arrived", total));
        let look = || {
            let changes = reader.space.status().map_or(0, |status| status.changes);
            arrived.set_position(changes.saturating_sub(1));
        };
        let started = Instant::now();
        for (number, patches) in (1..).zip(&trace.transactions) {
            note.change(|tx| type_all(tx, &body, patches))?;
            if number % LOOK == 0 {
                typed.set_position(number);
                look();
            }
        }
        let typing = started.elapsed();
        typed.set_position(total);
        let (durable, arriving) = self.settle(started, &documents, look)?;
        bars.clear();
        self.figures(total, &Times { typed: typing, durable, arrived: arriving });
        self.end_in(&documents, &trace.end)
    }

    fn made_up(&self, seed: u64, edits: u64) -> Result<(), Failure> {
        let SharedNote { documents, body } =
            self.note("Replay", "Two authors, one text. 雨だ ☔\r\n")?;
        self.say(format!("two generated authors, {} each, seed {seed}", count(edits, "edit")));
        let bars = Bars::new(self.quiet);
        let started = Instant::now();
        let typing = std::thread::scope(|scope| {
            let authors = [(&documents[0], "author 1", 0), (&documents[1], "author 2", 1)];
            let threads = authors.map(|(document, name, number)| {
                let (bar, body) = (bars.bar(name, edits), &body);
                scope.spawn(move || {
                    let mut author = Author::new(seed, number);
                    for done in 1..=edits {
                        document.change(|tx| author.stroke(tx, body))?;
                        bar.set_position(done);
                    }
                    Ok::<_, Failure>(())
                })
            });
            let joined = threads.map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
            joined.into_iter().collect::<Result<Vec<()>, Failure>>()
        });
        typing?;
        let typed = started.elapsed();
        let (durable, arrived) = self.settle(started, &documents, || ())?;
        bars.clear();
        self.figures(2 * edits, &Times { typed, durable, arrived });
        self.all_same(&documents, 1 + 2 * edits)
            .map_err(|failure| failure.and(format!("seed {seed}")))
    }

    /// Creates the note at the first replica, and opens it at the others when it arrives.
    fn note(&self, title: &str, text: &str) -> Result<SharedNote, Failure> {
        let mut documents: Vec<Document> = Vec::with_capacity(self.replicas.len());
        for replica in &self.replicas {
            let document = match documents.first() {
                Some(first) => replica.arrived(&self.waiter, first.id())?,
                None => {
                    replica
                        .space
                        .create(|tx| {
                            note::write(tx, title, text, None)?;
                            Ok(())
                        })?
                        .0
                }
            };
            // Loads the document, so that changes are applied on arrival, as for a user who watches.
            document.heads()?;
            documents.push(document);
        }
        let body =
            documents.first().map(|note| note.read(|doc| note::text_object(doc, note::BODY)));
        match body.transpose()? {
            Some(Ok(Some(body))) => Ok(SharedNote { documents, body }),
            _ => Err(lost_body()),
        }
    }

    /// Waits until everything is durable and all replicas are equal; reports both times.
    fn settle(
        &self,
        started: Instant,
        documents: &[Document],
        mut look: impl FnMut(),
    ) -> Result<(Duration, Duration), Failure> {
        for replica in &self.replicas {
            replica.flush()?;
        }
        let durable = started.elapsed();
        let mut all = self.replicas.iter().zip(documents);
        let Some(first) = all.next() else { return Ok((durable, durable)) };
        for other in all {
            until_same(&self.waiter, first, other, &mut look)?;
        }
        Ok((durable, started.elapsed()))
    }

    /// Checks that all replicas of a note are equal and have `changes` changes.
    fn all_same(&self, documents: &[Document], changes: u64) -> Result<(), Failure> {
        let mut checks = Vec::new();
        for pair in documents.windows(2) {
            checks = replica::same(&pair[0], &pair[1], changes)?;
            replica::all_hold(&checks)?;
        }
        for check in checks {
            self.say(good(format!("✓ {}", check.what)));
        }
        Ok(())
    }

    /// Checks that all replicas of a note end with this text.
    fn end_in(&self, documents: &[Document], end: &str) -> Result<(), Failure> {
        for (replica, document) in self.replicas.iter().zip(documents) {
            ends_in(replica, document, end)?;
        }
        let all = if documents.len() == 2 { "both" } else { "all" };
        let characters = count(end.chars().count() as u64, "character");
        self.say(good(format!("✓ {all} replicas equal the trace's end: {characters}")));
        Ok(())
    }

    fn figures(&self, changes: u64, times: &Times) {
        for (what, took) in [
            ("typed", times.typed),
            ("on the relay's disk", times.durable),
            ("at the other replica", times.arrived),
        ] {
            let rate = rate(changes, took);
            self.say(format!(
                "{what:<22}{:>9} after {:>8}  {rate:>9} changes/s",
                thousands(changes),
                time(took)
            ));
        }
    }

    fn say(&self, line: String) {
        if !self.quiet {
            say(line);
        }
    }
}

/// Makes one transaction's edits, as one change.
fn type_all(tx: &mut Transaction<'_>, body: &ObjId, patches: &[Patch]) -> Result<(), BoxError> {
    for Patch(position, deleted, inserted) in patches {
        tx.splice_text(body, *position, isize::try_from(*deleted)?, inserted)?;
    }
    Ok(())
}

fn ends_in(replica: &Replica, document: &Document, end: &str) -> Result<(), Failure> {
    let text = document.read(note::read)?.map(|note| note.body).unwrap_or_default();
    if text == end {
        return Ok(());
    }
    let equal = text.chars().zip(end.chars()).take_while(|(a, b)| a == b).count();
    let what = format!("{} differs from the trace's end", replica.name);
    let why = format!("from character {equal} on");
    Err(Failure::new(Exit::Differs, what, why, "please report this, with the trace"))
}

fn panicked() -> Failure {
    Failure::new(Exit::Other, "internal error", "a thread panicked", failure::REPORT)
}

fn lost_body() -> Failure {
    Failure::new(Exit::Other, "internal error", "a new note has no body", failure::REPORT)
}
