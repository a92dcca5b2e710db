//! The relay's file is damaged: a new replica receives everything else and a list of what is missing.
//! After a repair of the relay, a replica that has the missing data uploads it again.

use std::process::Command;

use landfall::SyncStatus;
use landfall_tests::http;
use landfall_tests::process::binary;
use landfall_tests::replica::{wait_for, wait_synced};
use landfall_tests::site::{SPACE, Site, wait_equal};

#[test]
fn damaged_entries_are_reported_and_sent_after_the_repair() {
    let mut site = Site::start();
    let [a, b] = site.parted(40);
    site.damage(("entry", "body"), 41, "\"offset\" = 30");
    site.restart();
    assert_eq!(http::get(site.port, "/readyz").0, 200, "the damaged entry has not been read yet");
    // A new replica reaches the end of the log, and its status shows that it lacks something.
    let [fresh] = site.replicas(["fresh"]);
    let space: landfall::SpaceName = SPACE.parse().unwrap();
    wait_for(&fresh.store, "to be live with damaged entries", |status| {
        let space = &status.spaces[&space];
        space.damaged_at_relay > 0 && space.sync == SyncStatus::Live
    });
    let damaged = fresh.store.space(SPACE).unwrap().damaged_at_relay().unwrap();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let named = damaged[0].expect("the document is known").to_string();
    let (status, body) = http::get(site.port, "/readyz");
    assert!(status == 503 && body.contains(&named), "{body}");
    // That status outlives a reconnect to the damaged relay.
    fresh.store.go_offline();
    fresh.store.go_online();
    wait_synced(&fresh.store);
    assert!(fresh.store.status().spaces[&space].damaged_at_relay > 0);
    // The repair removes the damaged entry and what follows it. The replicas that have these changes
    // upload them again.
    site.stop();
    let data = site.data();
    let repair = Command::new(binary("landfall-relay"))
        .args(["verify", "--repair", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(repair.status.success(), "{}", String::from_utf8_lossy(&repair.stderr));
    site.restart();
    [&a, &b].iter().for_each(|replica| replica.store.go_online());
    wait_equal(&[&a, &b, &fresh], a.made + b.made + fresh.made + 1);
    wait_for(&fresh.store, "whole", |status| status.spaces[&space].damaged_at_relay == 0);
    assert_eq!(fresh.store.space(SPACE).unwrap().damaged_at_relay().unwrap(), []);
    site.check(&[&a, &b, &fresh]);
}
