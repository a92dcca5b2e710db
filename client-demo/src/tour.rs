//! The command `tour`: a guided scenario with real processes, sockets and files. Two replicas edit one note
//! offline, sync, and survive a relay that is killed during a burst.

mod burst;
mod edits;
mod view;

use std::time::{Duration, Instant};

use landfall::{Document, Durability, LinkStatus, SyncStatus};

use crate::args::TourArgs;
use crate::failure::Failure;
use crate::note::{self, Note};
use crate::replica::{self, Check, Replica, until_same};
use crate::scratch::{self, Scratch};
use crate::term::{count, say, time};
use crate::wait::Waiter;
use burst::Burst;
use view::{line, step};

/// The space that the tour's replicas share.
const SPACE: &str = "tour";

/// The measured times.
#[derive(Default)]
struct Figures {
    converged: Duration,
    burst: Option<burst::Figures>,
}

/// Runs the command.
pub(crate) fn run(args: &TourArgs) -> Result<(), Failure> {
    let edits = u64::from(args.edits);
    scratch::run("tour", move |scratch| Tour::begin(scratch)?.run(edits))
}

struct Tour<'a> {
    scratch: &'a Scratch,
    waiter: Waiter,
    url: String,
    ann: Replica,
    ben: Replica,
    figures: Figures,
}

/// A note, as opened at both replicas, and the number of its changes.
struct SharedNote {
    at_ann: Document,
    at_ben: Document,
    returned: u64,
}

impl<'a> Tour<'a> {
    fn begin(scratch: &'a Scratch) -> Result<Self, Failure> {
        say("A tour of Landfall: two replicas, one relay, one note.");
        step(1, "A relay starts, in a separate process");
        let (url, process) = scratch.start_relay()?;
        line(format!("process {process}, listening on {url}"));
        line("Ann and Ben get a store each: one SQLite file, in a temporary folder");
        let open = |name| Replica::open(scratch.path(), name, SPACE, Durability::Full);
        let (ann, ben) = (open("Ann")?, open("Ben")?);
        ann.store.connect(url.as_str())?;
        ben.store.connect(url.as_str())?;
        let waiter = Waiter::new()?;
        for replica in [&ann, &ben] {
            replica.until_live(&waiter)?;
        }
        line("both are connected and live");
        Ok(Self { scratch, waiter, url, ann, ben, figures: Figures::default() })
    }

    fn run(mut self, edits: u64) -> Result<(), Failure> {
        let mut note = self.meet()?;
        self.apart(&mut note)?;
        self.together(&note)?;
        let diary = self.burst(edits)?;
        let checks = self.check(&[("the note", &note), ("the diary", &diary)], edits)?;
        view::figures(&self.figures);
        replica::all_hold(&checks)?;
        say("");
        say("Nothing was lost or duplicated. The relay and the folder are removed.");
        Ok(())
    }

    /// Ann writes a note, Ben receives it.
    fn meet(&self) -> Result<SharedNote, Failure> {
        step(2, "Ann writes a note, Ben receives it");
        let started = Instant::now();
        let at_ann = edits::create(&self.ann.space)?;
        line(format!("in Ann's file after {}: change() returned", time(started.elapsed())));
        self.ann.flush()?;
        line(format!(
            "on the relay's disk after {}: the relay acknowledged",
            time(started.elapsed())
        ));
        let at_ben = self.ben.arrived(&self.waiter, at_ann.id())?;
        let title = read(&at_ben)?.title;
        line(format!("Ben reads “{title}” after {}", time(started.elapsed())));
        Ok(SharedNote { at_ann, at_ben, returned: 1 })
    }

    /// Both go offline and edit.
    fn apart(&self, note: &mut SharedNote) -> Result<(), Failure> {
        step(3, "Both go offline and edit the same note");
        for replica in [&self.ann, &self.ben] {
            replica.store.go_offline();
            replica.until_link(&self.waiter, |link| link == LinkStatus::Offline)?;
        }
        note.returned += edits::anns(&note.at_ann)?;
        note.returned += edits::bens(&note.at_ben)?;
        let heading = |replica: &Replica| {
            format!("{}, offline, {} pending", replica.name, count(replica.pending(), "change"))
        };
        view::two(
            (&heading(&self.ann), &read(&note.at_ann)?),
            (&heading(&self.ben), &read(&note.at_ben)?),
        );
        Ok(())
    }

    /// Both reconnect, and their edits merge.
    fn together(&mut self, note: &SharedNote) -> Result<(), Failure> {
        step(4, "Both come back, and their edits merge");
        let started = Instant::now();
        for replica in [&self.ann, &self.ben] {
            replica.store.go_online();
        }
        let (ann, ben) = ((&self.ann, &note.at_ann), (&self.ben, &note.at_ben));
        until_same(&self.waiter, ann, ben, || ())?;
        self.figures.converged = started.elapsed();
        line(format!("the same at both after {}", time(self.figures.converged)));
        let merged = read(&note.at_ann)?;
        view::one("Ann and Ben", &merged);
        replica::all_hold(&edits::merged(&merged))
    }

    /// Both type while the relay is killed and restarted.
    fn burst(&mut self, edits: u64) -> Result<SharedNote, Failure> {
        step(5, "The relay is killed while both type");
        let each = count(edits, "letter");
        line(format!("a shared diary; {each} from each, one change per letter"));
        let at_ann = burst::create(&self.ann.space)?;
        let at_ben = self.ben.arrived(&self.waiter, at_ann.id())?;
        at_ben.heads()?;
        let diary = SharedNote { at_ann, at_ben, returned: 1 + 2 * edits };
        let burst = Burst {
            scratch: self.scratch,
            waiter: &self.waiter,
            ann: (&self.ann, &diary.at_ann),
            ben: (&self.ben, &diary.at_ben),
            edits,
        };
        self.figures.burst = Some(burst.run()?);
        Ok(diary)
    }

    /// Checks that both replicas, and the relay, have everything exactly once.
    fn check(&self, shared: &[(&str, &SharedNote)], edits: u64) -> Result<Vec<Check>, Failure> {
        step(6, "Was anything lost or duplicated?");
        // A new replica shows what the relay has: Cleo has never been in contact with Ann or Ben.
        let cleo = Replica::open(self.scratch.path(), "Cleo", SPACE, Durability::Full)?;
        cleo.store.connect(self.url.as_str())?;
        let mut all = Vec::new();
        for (name, shared) in shared {
            line(format!("{name}, at Ann and at Ben"));
            let mut checks = replica::same(&shared.at_ann, &shared.at_ben, shared.returned)?;
            if *name == "the diary" {
                checks.push(burst::as_typed(&read(&shared.at_ann)?, edits));
            }
            let at_cleo = cleo.arrived(&self.waiter, shared.at_ann.id())?;
            let (ann, new) = ((&self.ann, &shared.at_ann), (&cleo, &at_cleo));
            until_same(&self.waiter, ann, new, || ())?;
            let same = shared.at_ann.heads()? == at_cleo.heads()?;
            checks.push(Check::new("Cleo, a new replica, receives the same from the relay", same));
            view::checks(&checks);
            all.append(&mut checks);
        }
        let settled = |replica: &Replica| {
            let status = replica.store.status();
            let live = status.spaces.values().all(|space| space.sync == SyncStatus::Live);
            live && status.pending().changes == 0
        };
        line("the status");
        let both = settled(&self.ann) && settled(&self.ben);
        let status = Check::new("both are live, with nothing pending", both);
        view::checks(std::slice::from_ref(&status));
        all.push(status);
        Ok(all)
    }
}

fn read(document: &Document) -> Result<Note, Failure> {
    document.read(note::read)?.map_err(|problem| {
        let what = "the tour's note is malformed";
        Failure::new(crate::failure::Exit::Differs, what, problem, crate::failure::REPORT)
    })
}
