//! The command `replay`: a recorded or made-up editing session as real typing, one change for each
//! transaction, from one replica to another through a relay.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use landfall::automerge::ObjId;
use landfall::automerge::transaction::Transactable;
use landfall::{Document, Durability};

use crate::cli::{Place, ReplayArgs};
use crate::failure::{self, Exit, Failure};
use crate::generate::{self, Author};
use crate::note;
use crate::progress::Bars;
use crate::replica::{self, Replica, until_same};
use crate::scratch::{self, Scratch};
use crate::term::{count, good, rate, say, thousands, time};
use crate::trace::{Patch, Trace};
use crate::wait::Waiter;

/// Changes between two looks at the clock and the bars.
const LOOK: u64 = 32;

/// What is played.
enum Script {
    Recorded(Trace),
    MadeUp { seed: u64, edits: u64 },
}

/// Runs the command.
pub(crate) fn run(place: &Place, args: &ReplayArgs) -> Result<(), Failure> {
    let script = match &args.trace {
        Some(path) => Script::Recorded(Trace::read(path)?),
        None => {
            let seed = args.seed.unwrap_or_else(generate::seed);
            Script::MadeUp { seed, edits: u64::from(args.edits) }
        }
    };
    let durability = if args.full { Durability::Full } else { Durability::Normal };
    // Only a relay that was asked for by name: another one's disk is not to be filled by accident.
    let (relay, quiet) = (place.relay.clone(), place.quiet);
    scratch::run("replay", move |scratch| {
        let stage = Stage::set(scratch, relay, durability, quiet)?;
        match &script {
            Script::Recorded(trace) => stage.recorded(trace),
            Script::MadeUp { seed, edits } => stage.made_up(*seed, *edits),
        }
    })
}

/// Two replicas and a note that both have open.
struct Stage {
    waiter: Waiter,
    writer: Replica,
    reader: Replica,
    quiet: bool,
}

/// How long it took.
struct Times {
    typed: Duration,
    durable: Duration,
    arrived: Duration,
}

impl Stage {
    fn set(
        scratch: &Scratch,
        relay: Option<String>,
        durability: Durability,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let (url, own) = match relay {
            Some(url) => (url, false),
            None => (scratch.start_relay()?.0, true),
        };
        // A space of its own: what was replayed there before is nothing to wait for.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let space = format!("replay-{:x}", now.as_micros());
        let open = |name| Replica::open(scratch.path(), name, &space, durability);
        let (writer, reader) = (open("Writer")?, open("Reader")?);
        writer.store.connect(url.as_str())?;
        reader.store.connect(url.as_str())?;
        if !quiet {
            let whose = if own { "a relay of its own at " } else { "" };
            say(format!("through {whose}{url}"));
        }
        Ok(Self { waiter: Waiter::new()?, writer, reader, quiet })
    }

    fn recorded(&self, trace: &Trace) -> Result<(), Failure> {
        let (note, body, copy) = self.note("Replay", &trace.start)?;
        let total = trace.len();
        self.say(format!("{} by one author, one change each", count(total, "transaction")));
        let bars = Bars::new(self.quiet);
        let (typed, arrived) = (bars.bar("typed", total), bars.bar("arrived", total));
        let look = || {
            let changes = self.reader.space.status().map_or(0, |status| status.changes);
            arrived.set_position(changes.saturating_sub(1));
        };
        let started = Instant::now();
        for (number, patches) in (1..).zip(&trace.transactions) {
            type_one(&note, &body, patches)?;
            if number % LOOK == 0 {
                typed.set_position(number);
                look();
            }
        }
        let typing = started.elapsed();
        typed.set_position(total);
        let (durable, arriving) = self.settle(started, &note, &copy, look)?;
        bars.clear();
        self.figures(total, &Times { typed: typing, durable, arrived: arriving });
        for (replica, document) in [(&self.writer, &note), (&self.reader, &copy)] {
            ends_in(replica, document, &trace.end)?;
        }
        let characters = count(trace.end.chars().count() as u64, "character");
        self.say(good(format!("✓ both replicas equal the trace's end: {characters}")));
        Ok(())
    }

    fn made_up(&self, seed: u64, edits: u64) -> Result<(), Failure> {
        let (note, body, copy) = self.note("Replay", "Two authors, one text. 雨だ ☔\r\n")?;
        self.say(format!("two made-up authors, {} each, seed {seed}", count(edits, "edit")));
        let bars = Bars::new(self.quiet);
        let started = Instant::now();
        let typing = std::thread::scope(|scope| {
            let authors = [(&note, "author 1", 0), (&copy, "author 2", 1)];
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
        let (durable, arrived) = self.settle(started, &note, &copy, || ())?;
        bars.clear();
        self.figures(2 * edits, &Times { typed, durable, arrived });
        let checks = replica::same(&note, &copy, 1 + 2 * edits)?;
        for check in checks.iter().filter(|check| check.holds) {
            self.say(good(format!("✓ {}", check.what)));
        }
        replica::all_hold(&checks).map_err(|failure| failure.and(format!("seed {seed}")))
    }

    /// Makes the note at the writer, and opens it at the reader once it is there.
    fn note(&self, title: &str, text: &str) -> Result<(Document, ObjId, Document), Failure> {
        let note = self.writer.space.create(|tx| {
            note::write(tx, title, text, None)?;
            Ok(())
        })?;
        let body = note.read(|doc| note::text_object(doc, note::BODY))?;
        let Ok(Some(body)) = body else { return Err(lost_body()) };
        let copy = self.reader.arrived(&self.waiter, note.id())?;
        // Loads it, so that what arrives is applied as it would be in front of a person.
        copy.heads()?;
        Ok((note, body, copy))
    }

    /// Waits until everything is durable and both are the same; says when each was.
    fn settle(
        &self,
        started: Instant,
        note: &Document,
        copy: &Document,
        look: impl FnMut(),
    ) -> Result<(Duration, Duration), Failure> {
        self.writer.flush()?;
        self.reader.flush()?;
        let durable = started.elapsed();
        until_same(&self.waiter, (&self.writer, note), (&self.reader, copy), look)?;
        Ok((durable, started.elapsed()))
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

fn type_one(note: &Document, body: &ObjId, patches: &[Patch]) -> Result<(), Failure> {
    note.change(|tx| {
        for Patch(position, deleted, inserted) in patches {
            tx.splice_text(body, *position, isize::try_from(*deleted)?, inserted)?;
        }
        Ok(())
    })?;
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
    Failure::new(Exit::Other, "our own fault", "a thread panicked", failure::REPORT)
}

fn lost_body() -> Failure {
    Failure::new(Exit::Other, "our own fault", "a new note has no body", failure::REPORT)
}
