//! The program's file is replaced under a running relay: the compaction worker is still the original program.

use std::path::Path;

use crate::support::{Place, RELAY, Served, push_long};

/// An operation on the file of a running relay.
type Act = fn(&Path);

#[cfg(target_os = "linux")]
#[test]
fn a_relay_compacts_after_its_program_file_is_gone_or_replaced() {
    let acts: [(&str, Act); 3] = [
        ("removed", |file| std::fs::remove_file(file).unwrap()),
        ("replaced", |file| {
            let other = file.with_extension("new");
            std::fs::write(&other, "#!/bin/sh\nexit 1\n").unwrap();
            std::fs::rename(&other, file).unwrap();
        }),
        ("its folder removed", |file| {
            std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
        }),
    ];
    for (name, act) in acts {
        let place = Place::new();
        let program = place.path("program/landfall-relay");
        std::fs::create_dir(program.parent().unwrap()).unwrap();
        std::fs::copy(RELAY, &program).unwrap();
        let args = ["--keep-recent", "0", "--keep-recent-age", "0"];
        let relay = Served::start_program(&program, &place.path("data"), &args);
        act(&program);
        push_long(relay.address);
        relay.until_metric("landfall_relay_compactions_total{outcome=\"compacted\"}", |count| {
            count > 0.0
        });
        let failed = relay.metric("landfall_relay_compactions_total{outcome=\"failed\"}");
        assert_eq!(failed, 0.0, "{name}");
        relay.stop();
    }
}
