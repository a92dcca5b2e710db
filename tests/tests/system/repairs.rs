//! The relay's file is damaged, and a client has the lost data: the running relay gets it back from
//! that client, and sends it to the replicas that lack it.

use std::io::{Seek, SeekFrom, Write};
use std::process::Command;

use landfall::{Options, SyncStatus};
use landfall_tests::http;
use landfall_tests::process::binary;
use landfall_tests::replica::{wait_for, wait_synced};
use landfall_tests::site::{COMPACTIONS, Replica, SPACE, Site, sync_all, wait_equal};

/// Connects a new replica, which is notified that the relay's data is damaged.
fn fresh(site: &Site) -> Replica {
    let [fresh] = site.replicas(["fresh"]);
    let space: landfall::SpaceName = SPACE.parse().unwrap();
    wait_for(&fresh.store, "to be live with damaged entries", |status| {
        let space = &status.spaces[&space];
        space.damaged_at_relay > 0 && space.sync == SyncStatus::Live
    });
    let (status, body) = http::get(site.port, "/readyz");
    assert!(status == 503 && body.contains("is damaged"), "{body}");
    fresh
}

/// Checks that the replica has everything, and that the relay reports itself ready.
fn is_whole(site: &Site, fresh: &Replica) {
    let space: landfall::SpaceName = SPACE.parse().unwrap();
    wait_for(&fresh.store, "whole", |status| status.spaces[&space].damaged_at_relay == 0);
    assert_eq!(http::get(site.port, "/readyz").0, 200);
    let verified = Command::new(binary("landfall-relay"))
        .args(["verify", "--data"])
        .arg(site.data())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// The lost data comes from a replica that connects late, and reaches one that was notified of the
/// damage. All end equal.
fn comes_back(site: &mut Site, a: &Replica, b: &Replica) {
    site.restart();
    let fresh = fresh(site);
    a.store.go_online();
    is_whole(site, &fresh);
    wait_equal(&[a, &fresh], a.made + b.made + fresh.made + 1);
    b.store.go_online();
    site.check(&[a, b, &fresh]);
}

#[test]
fn a_client_that_has_a_damaged_change_heals_it() {
    let mut site = Site::start();
    let [a, b] = site.parted(40);
    site.damage(("entry", "body"), 41, "\"offset\" IN (30, 31, 50)");
    comes_back(&mut site, &a, &b);
}

#[test]
fn a_damaged_snapshot_is_rebuilt_from_an_uncompacted_client() {
    let mut site = Site::start_with(COMPACTIONS, Options::default());
    let [mut a, b] = site.replicas(["a", "b"]);
    a.edit(700);
    sync_all(&[&a, &b]);
    let compactions =
        |line: &str| line.starts_with("landfall_relay_compactions_total{outcome=\"compacted\"}");
    site.until_metrics("a compaction", |text| text.lines().any(compactions));
    [&a, &b].iter().for_each(|replica| replica.store.go_offline());
    site.stop();
    site.damage(("snapshot_piece", "bytes"), 401, "true");
    comes_back(&mut site, &a, &b);
}

/// Changes bytes of the stopped relay's file.
fn damage(site: &Site, sql: &str) {
    let conn = landfall_storage::rusqlite::Connection::open(site.data().join("relay.db")).unwrap();
    assert!(conn.execute(sql, []).unwrap() > 0, "{sql}");
}

/// The change's stored hash is damaged, so that no client has a change with the requested hash.
#[test]
fn damage_that_no_client_can_heal_is_reported_until_a_repair() {
    let mut site = Site::start();
    let [a, b] = site.parted(40);
    damage(&site, "UPDATE entry SET hash = randomblob(32) WHERE \"offset\" = 30");
    site.restart();
    let space: landfall::SpaceName = SPACE.parse().unwrap();
    let fresh = fresh(&site);
    let named = fresh.space.damaged_at_relay().unwrap();
    a.store.go_online();
    wait_synced(&a.store);
    assert_eq!(a.store.check_blocking(), Ok(0), "nothing has drifted");
    wait_for(&a.store, "to receive the damage report", |status| {
        status.spaces[&space].damaged_at_relay > 0
    });
    assert_eq!(a.space.damaged_at_relay().unwrap(), named);
    assert_eq!(a.store.status().spaces[&space].drifted, 0);
    // The relay knows the damage right after a start, before a client reads the entry.
    until_kept(&site);
    [&a, &fresh].iter().for_each(|replica| replica.store.go_offline());
    site.stop();
    site.restart();
    let (status, body) = http::get(site.port, "/readyz");
    assert!(status == 503 && body.contains(&named[0].unwrap().to_string()), "{body}");
    // A repair recomputes the hash from the bytes, and the relay is ready.
    site.stop();
    assert_eq!(repair(&site), Some(0));
    site.restart();
    assert_eq!(http::get(site.port, "/readyz").0, 200);
    [&a, &b, &fresh].iter().for_each(|replica| replica.store.go_online());
    wait_for(&a.store, "to receive the repair notice", |status| {
        status.spaces[&space].damaged_at_relay == 0
    });
    site.check(&[&a, &b, &fresh]);
}

#[test]
fn unreadable_pages_are_reported_to_need_a_backup() {
    let mut site = Site::start();
    let [mut a, b] = site.replicas(["a", "b"]);
    a.edit(200);
    sync_all(&[&a, &b]);
    [&a, &b].iter().for_each(|replica| replica.store.go_offline());
    site.back_up();
    site.stop();
    zero_a_digest_entry(&site);
    site.restart();
    let needs_a_backup = |site: &Site| {
        let (status, body) = http::get(site.port, "/readyz");
        let names = body.contains("restore a backup") && !body.contains("verify --repair");
        assert!(status == 503 && names, "{body}");
    };
    let fresh = fresh(&site);
    needs_a_backup(&site);
    fresh.store.go_offline();
    site.stop();
    assert_eq!(repair(&site), Some(6));
    site.restart();
    needs_a_backup(&site);
    site.stop();
    site.restore();
    site.restart();
    assert_eq!(http::get(site.port, "/readyz").0, 200);
    [&a, &b].iter().for_each(|replica| replica.store.go_online());
    site.check(&[&a, &b]);
}

/// Waits until the running relay has recorded the damage.
fn until_kept(site: &Site) {
    use landfall_storage::rusqlite::{Connection, OpenFlags};
    let deadline = std::time::Instant::now() + landfall_tests::PATIENCE;
    loop {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let conn = Connection::open_with_flags(site.data().join("relay.db"), flags).unwrap();
        let kept = "SELECT count(*) FROM damaged";
        if conn.query_row(kept, [], |row| row.get::<_, i64>(0)).unwrap() > 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the damage is not recorded");
        // sleep: only spaces the polls of a file that signals no change
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The exit code of a repair of the stopped relay's folder.
fn repair(site: &Site) -> Option<i32> {
    let repair = Command::new(binary("landfall-relay"))
        .args(["verify", "--repair", "--data"])
        .arg(site.data())
        .output()
        .unwrap();
    repair.status.code()
}

/// Overwrites a page of changes with zeros.
fn zero_a_digest_entry(site: &Site) {
    let file = site.data().join("relay.db");
    let conn = landfall_storage::rusqlite::Connection::open(&file).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let sql =
        "SELECT pageno FROM dbstat WHERE name = 'entry' AND pagetype = 'leaf' LIMIT 1 OFFSET 1";
    let page: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(conn);
    let mut file = std::fs::File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start((page as u64 - 1) * 4096)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
}
