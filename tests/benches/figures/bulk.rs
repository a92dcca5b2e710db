//! Many changes at once: made offline, pushed, durable at the relay, committed at a new replica.

use std::time::Instant;

use landfall::{Durability, Store};

use super::setup::{Relay, options, typed, wait};

const CHANGES: usize = 20_000;

pub fn offline_changes() {
    for (name, loaded) in [("not loaded", false), ("loaded", true)] {
        let mut rates: Vec<f64> = (0..5).map(|_| one(loaded)).collect();
        rates.sort_by(f64::total_cmp);
        println!(
            "20,000 offline changes → fresh replica ({name}): median {:.0} changes/s, {:.0}–{:.0}",
            rates[2], rates[0], rates[4]
        );
    }
}

fn one(loaded: bool) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"));
    let open = |name| Store::open(folder.path().join(name), options(Durability::Full)).unwrap();
    let (from, to) = (open("from"), open("to"));
    let (space, target) = (from.space("default").unwrap(), to.space("default").unwrap());
    let (document, _) = typed(&from, &space, 1);
    let read = loaded.then(|| {
        // The reader has the document open before the bulk of the changes arrives.
        from.connect(relay.url.as_str()).unwrap();
        to.connect(relay.url.as_str()).unwrap();
        wait(&to, |status| status.spaces["default"].changes >= 3);
        from.go_offline();
        let read = target.open(document.id()).unwrap();
        read.heads().unwrap();
        read
    });
    super::setup::type_on(&from, &document, CHANGES);
    let heads = document.heads().unwrap();
    let started = Instant::now();
    match loaded {
        true => from.go_online(),
        false => {
            from.connect(relay.url.as_str()).unwrap();
            to.connect(relay.url.as_str()).unwrap();
        }
    }
    let all = CHANGES as u64 + 3;
    wait(&to, |status| status.spaces["default"].changes >= all);
    if let Some(read) = read {
        let mut events = to.events();
        while read.heads().unwrap() != heads {
            events.next_blocking();
        }
    }
    CHANGES as f64 / started.elapsed().as_secs_f64()
}
