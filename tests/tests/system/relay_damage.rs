//! The relay's file is damaged: a new replica gets all else and is told what it lacks, and once the relay
//! has been repaired, a replica that has it brings it back to all.

use std::process::Command;

use landfall::SyncStatus;
use landfall_tests::http;
use landfall_tests::process::binary;
use landfall_tests::replica::{wait_for, wait_synced};
use landfall_tests::site::{SPACE, Site, sync_all, wait_equal};

#[test]
fn what_a_damaged_relay_cannot_send_is_told_and_comes_once_it_is_repaired() {
    let mut site = Site::start();
    let [mut a, mut b] = site.replicas(["a", "b"]);
    a.edit(40);
    b.edit(40);
    sync_all(&[&a, &b]);
    [&a, &b].iter().for_each(|replica| replica.store.go_offline());
    site.stop();
    damage(&site);
    site.restart();
    assert_eq!(http::get(site.port, "/readyz").0, 200, "nothing has read it yet");
    // A new replica comes to the end of the log, and says that it has not got all.
    let [fresh] = site.replicas(["fresh"]);
    let space: landfall::SpaceName = SPACE.parse().unwrap();
    wait_for(&fresh.store, "live, and not whole", |status| {
        let space = &status.spaces[&space];
        space.damaged_at_relay > 0 && space.sync == SyncStatus::Live
    });
    let damaged = fresh.store.space(SPACE).unwrap().damaged_at_relay().unwrap();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let named = damaged[0].expect("the document is known").to_string();
    let (status, told) = http::get(site.port, "/readyz");
    assert!(status == 503 && told.contains(&named), "{told}");
    // It outlives a restart of the replica, and a connection to the relay as it is.
    fresh.store.go_offline();
    fresh.store.go_online();
    wait_synced(&fresh.store);
    assert!(fresh.store.status().spaces[&space].damaged_at_relay > 0);
    // The relay is repaired, by which it loses what is damaged and what follows it. Those that have it
    // bring it back.
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

/// Changes a byte in the body of a change in the middle of the log.
fn damage(site: &Site) {
    let conn = landfall_storage::rusqlite::Connection::open(site.data().join("relay.db")).unwrap();
    let sql = "UPDATE entry SET body = CAST(substr(body, 1, 40) || \
        CASE substr(body, 41, 1) WHEN x'07' THEN x'06' ELSE x'07' END || substr(body, 42) AS BLOB) \
        WHERE \"offset\" = 30";
    assert_eq!(conn.execute(sql, []).unwrap(), 1);
}
