//! Two authors type as fast as their disks allow, into one note, while the relay is killed and restarted.
//!
//! Ann types before a mark and Ben after it, each after their own last character, so the resulting text is
//! known exactly.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use landfall::automerge::ReadDoc;
use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ROOT, ScalarValue};
use landfall::{ChangeError, Document, LinkStatus, Space};

use super::view::{indented, line};
use crate::failure::{self, Exit, Failure};
use crate::note::{self, BODY, Note, ShapeError, VOTES};
use crate::progress::Bars;
use crate::replica::{Check, Replica, until_same};
use crate::scratch::Scratch;
use crate::term::{count, time};
use crate::wait::Waiter;

/// Separates the two authors' text.
const MARK: char = '\n';

const ANNS: &str = "Monday. The river 川 was high, so we walked 🚶 to the café. ";
const BENS: &str = "Tuesday. Rain ☔, then sun; a train 🚄 to Ōsaka, and noodles 麺. ";

/// The relay is killed after this percentage of all edits...
const KILL_AT: u64 = 35;
/// ...and restarted after this one.
const RESTART_AT: u64 = 65;

/// A connecting client may occupy the port for a moment.
const RESTARTS: u32 = 20;

/// The measured times.
pub(super) struct Figures {
    pub(super) edits: u64,
    pub(super) typed: Duration,
    /// From the relay's return until both were live again.
    pub(super) recovered: Duration,
    /// From the relay's return until everything was everywhere.
    pub(super) settled: Duration,
}

/// A burst to be run.
pub(super) struct Burst<'a> {
    pub(super) scratch: &'a Scratch,
    pub(super) waiter: &'a Waiter,
    pub(super) ann: (&'a Replica, &'a Document),
    pub(super) ben: (&'a Replica, &'a Document),
    /// Edits per author.
    pub(super) edits: u64,
}

/// The diary before they type.
pub(super) fn create(space: &Space) -> Result<Document, ChangeError> {
    let (document, ()) = space.create(|tx| {
        note::write(tx, "Diary", &MARK.to_string(), None)?;
        Ok(tx.put(ROOT, VOTES, ScalarValue::counter(0))?)
    })?;
    Ok(document)
}

/// Checks that the diary is exactly the text typed, with each edit once.
pub(super) fn as_typed(diary: &Note, edits: u64) -> Check {
    let typed = |text: &'static str| text.chars().cycle().take(edits as usize);
    let expected: String = typed(ANNS).chain([MARK]).chain(typed(BENS)).collect();
    let counted = diary.votes == i64::try_from(2 * edits).ok();
    Check::new("the text contains all letters that both typed", diary.body == expected && counted)
}

impl Burst<'_> {
    /// Types, kills, restarts, and waits until everything is everywhere.
    pub(super) fn run(&self) -> Result<Figures, Failure> {
        let total = 2 * self.edits;
        let bars = Bars::new(false);
        let bar = |(replica, _): (&Replica, &Document)| bars.bar(replica.name, self.edits);
        let (ann, ben) = (bar(self.ann), bar(self.ben));
        let started = Instant::now();
        let (typed, back) = thread::scope(|scope| {
            let (tell, done) = mpsc::channel();
            let front = (self.ann.1, ANNS, true, ann, tell.clone());
            let end = (self.ben.1, BENS, false, ben, tell);
            let typists = [front, end].map(|(document, text, front, bar, tell)| {
                scope.spawn(move || type_all(document, text, self.edits, front, &bar, &tell))
            });
            let disturbed = self.disturb(&done, total, &bars);
            let joined = typists.map(|typist| typist.join().unwrap_or_else(|_| Err(panicked())));
            joined.into_iter().collect::<Result<Vec<()>, Failure>>()?;
            let (back, recovered) = disturbed?;
            Ok::<_, Failure>((started.elapsed(), (back, recovered)))
        })?;
        let (back, recovered) = back;
        self.ann.0.flush()?;
        self.ben.0.flush()?;
        until_same(self.waiter, self.ann, self.ben, || ())?;
        let settled = back.elapsed();
        bars.clear();
        let all = count(total, "edit");
        line(format!("both have all {all}, {} after its return", time(settled)));
        Ok(Figures { edits: total, typed, recovered, settled })
    }

    /// Kills the relay and restarts it while the two type. Returns when it was back, and how long it took
    /// from then until both were live.
    fn disturb(
        &self,
        done: &mpsc::Receiver<()>,
        total: u64,
        bars: &Bars,
    ) -> Result<(Instant, Duration), Failure> {
        let mut edits = 0;
        let mut until = |hundredths: u64| {
            // The channel closes when both authors end, also if they fail: their error is reported later.
            while edits < total * hundredths / 100 && done.recv().is_ok() {
                edits += 1;
            }
            edits
        };
        let typed = until(KILL_AT);
        self.scratch.with_relay(|relay| relay.kill().map_err(|error| cannot("kill", error)))?;
        let unsent = self.ann.0.pending() + self.ben.0.pending();
        let unsent = count(unsent, "change");
        indented(bars, &format!("SIGKILL after {} edits, {unsent} not acknowledged yet", typed));
        for (replica, _) in [self.ann, self.ben] {
            replica.until_link(self.waiter, |link| link != LinkStatus::Online)?;
        }
        indented(bars, "both notice, and continue to type without it");
        until(RESTART_AT);
        let waiting = self.ann.0.pending() + self.ben.0.pending();
        self.restart()?;
        let back = Instant::now();
        let waiting = count(waiting, "change");
        indented(bars, &format!("started again, same port, same folder; {waiting} pending"));
        for (replica, _) in [self.ann, self.ben] {
            replica.until_live(self.waiter)?;
        }
        let recovered = back.elapsed();
        let after = time(recovered);
        indented(bars, &format!("both are live again without help, {after} after its return"));
        Ok((back, recovered))
    }

    fn restart(&self) -> Result<(), Failure> {
        let mut left = RESTARTS;
        loop {
            let result = self.scratch.with_relay(|relay| Ok(relay.restart()?));
            left -= 1;
            if result.is_ok() || left == 0 {
                return result;
            }
            // The port is about to become free, without an event to wait for.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Types a text repeatedly, one character per change.
fn type_all(
    document: &Document,
    text: &str,
    edits: u64,
    front: bool,
    bar: &ProgressBar,
    tell: &mpsc::Sender<()>,
) -> Result<(), Failure> {
    for (index, letter) in text.chars().cycle().take(edits as usize).enumerate() {
        document.change(|tx| {
            let body = note::text_object(tx, BODY)?.ok_or(ShapeError::Missing { key: BODY })?;
            let place = if front { index } else { tx.length(&body) };
            tx.splice_text(&body, place, 0, letter.encode_utf8(&mut [0; 4]))?;
            Ok(tx.increment(ROOT, VOTES, 1)?)
        })?;
        bar.inc(1);
        // The receiver is dropped once the relay has been restarted.
        let _ = tell.send(());
    }
    Ok(())
}

fn cannot(what: &str, error: std::io::Error) -> Failure {
    Failure::new(Exit::Other, format!("cannot {what} the relay"), error, "try again")
}

fn panicked() -> Failure {
    Failure::new(Exit::Other, "internal error", "a thread panicked", failure::REPORT)
}
