//! A relay's URL in the forms that browsers accept, and the space in its path.

use crate::harness::{Home, Relay};

#[test]
fn every_form_of_a_relays_url_connects() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let url = &relay.url;
    home.at(&relay, &["notes", "new", "A"]).ok();
    for form in [
        format!("{url}/"),
        format!("{url}/?device=7"),
        format!("{url}?device=7"),
        format!("{url}?"),
        format!("{url}#top"),
        url.replacen("ws", "WS", 1),
        format!(" {url}"),
        format!("{url} \n"),
        url.replace("127.0.0.1", "localhost"),
    ] {
        let synced = home.run(&["--relay", &form, "sync", "--timeout", "60s"]).ok();
        assert!(synced.starts_with("in sync: 1 note;"), "{form:?} {synced}");
    }
    // It answers, but is no relay: waiting would not help.
    let wrong = format!("{url}/elsewhere");
    home.run(&["--relay", &wrong, "sync", "--timeout", "2m"]).failed(
        4,
        &["not a Landfall relay", "404", "give the URL that the relay printed at its start"],
    );
    let page = url.replacen("ws", "http", 1);
    home.run(&["--relay", &page, "sync"]).failed(2, &["it is a web page's", &format!("{url}/")]);
}

#[test]
fn a_url_path_names_the_space_as_for_browsers() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let url = format!("{}/spaces/team", relay.url);
    home.run(&["--relay", &url, "notes", "new", "Of the team"]).ok();
    let names = |store: &str, space: &str| {
        home.run(&["--store", store, "--space", space, "-q", "notes", "list"]).ok()
    };
    assert!(names("notes.landfall", "team").contains("Of the team"));
    assert_eq!(names("notes.landfall", "default"), "");
    home.at(&relay, &["--store", "ben", "--space", "team", "sync"]).ok();
    assert!(names("ben", "team").contains("Of the team"));
    home.run(&["--store", "cem", "--relay", &format!("{url}/"), "--space", "team", "sync"]).ok();
    assert!(names("cem", "team").contains("Of the team"));
    home.run(&["--store", "dan", "--relay", &url, "--space", "other", "sync"])
        .failed(2, &["two different spaces are given", "`team`", "`other`"]);
    assert!(!home.path("dan").exists());
    let no_name = format!("{}/spaces/a b", relay.url);
    home.run(&["--relay", &no_name, "sync"]).failed(2, &["not a space's name"]);
}
