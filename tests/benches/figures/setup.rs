//! A relay of the same build, and documents of a given length.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use landfall::automerge::{ObjId, ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall::{Document, Durability, Options, Space, Store};

/// The argument that makes this binary a relay, so that both have the same build profile.
pub const RELAY: &str = "relay-for-figures";

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    serve: landfall_relay::cli::ServeArgs,
}

pub fn run_relay(arguments: Vec<String>) -> ExitCode {
    let arguments = std::iter::once(RELAY.to_owned()).chain(arguments);
    let parsed = <Arguments as clap::Parser>::parse_from(arguments);
    landfall_relay::cli::run(parsed.serve)
}

pub struct Relay {
    child: Child,
    pub url: String,
    pub port: u16,
}

impl Relay {
    pub fn start(data: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([RELAY, "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        let port = url.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, url, port }
    }

    /// Processor time used so far, in ticks of 10 ms.
    pub fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The preceding field, the name, may contain spaces.
        let figures = stat.rsplit(") ").next().unwrap().split(' ');
        let ticks = figures.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn options(durability: Durability) -> Options {
    Options::default().durability(durability)
}

/// Makes a document with a text that was typed in so many changes, and returns it with the text's
/// object.
pub fn typed(store: &Store, space: &Space, changes: usize) -> (Document, ObjId) {
    let document = space.create(|_| Ok(())).unwrap().0;
    let text = document.change(|tx| Ok(tx.put_object(ROOT, "text", ObjType::Text)?)).unwrap();
    type_on(store, &document, changes);
    (document, text)
}

/// Types at the start of a document's text, in so many changes. Grouped, so that the preparation takes
/// few commits; each is still a separate change.
pub fn type_on(store: &Store, document: &Document, changes: usize) {
    let text = document.read(|doc| doc.get(ROOT, "text").unwrap().unwrap().1).unwrap();
    let mut at = 0;
    while at < changes {
        let end = (at + 1_000).min(changes);
        store
            .group(|group| {
                (at..end).try_for_each(|n| {
                    group.change(document, |tx| Ok(tx.splice_text(&text, n, 0, "x")?))
                })
            })
            .unwrap();
        at = end;
    }
}

pub fn wait(store: &Store, wanted: impl FnMut(&landfall::Status) -> bool) {
    store.watch().until_blocking(wanted).unwrap();
}
