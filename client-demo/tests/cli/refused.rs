//! Changes that the relay rejects: listed, pushed again, made again by another author, merged and
//! exported.

use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{Automerge, ObjType, ROOT, ReadDoc};
use landfall::{BoxError, Options, Store};

use crate::harness::{Home, Relay};

/// Two unrelated notes with the same id: the relay has Ann's, and rejects Ben's. `early` is a copy
/// of the relay's data from before.
fn two_of_one_id(home: &Home) -> Relay {
    let mut relay = Relay::start(home);
    home.at(&relay, &["--store", "cem", "notes", "new", "Elsewhere"]).ok();
    relay.copy(home, "early");
    for (name, body) in [("ann", "by Ann"), ("ben", "by Ben")] {
        let store = Store::open(home.path(name), Options::default()).unwrap();
        let space = store.space("default").unwrap();
        space.create_named("note", |tx| write(tx, body)).unwrap();
        store.close().unwrap();
    }
    home.at(&relay, &["--store", "ann", "sync"]).ok();
    home.at(&relay, &["--store", "ben", "sync"])
        .failed(4, &["not in sync", "refuses 1 change (", "unrelated", "notes refused"]);
    // Also for a command in another space.
    let list = "`landfall-demo notes refused --space default`";
    home.at(&relay, &["--store", "ben", "--space", "other", "sync"]).failed(4, &[list]);
    relay
}

fn write(tx: &mut Transaction<'_>, body: &str) -> Result<(), BoxError> {
    tx.put(ROOT, "landfallNotebook", 1)?;
    for (key, text) in [("title", "Same"), ("body", body)] {
        let object = tx.put_object(ROOT, key, ObjType::Text)?;
        tx.splice_text(&object, 0, 0, text)?;
    }
    Ok(())
}

fn ben(home: &Home, relay: &Relay, args: &[&str]) -> crate::harness::Done {
    home.at(relay, &[&["--store", "ben"], args].concat())
}

#[test]
fn refused_notes_are_listed_with_the_reason_and_can_be_saved() {
    let home = Home::new();
    let relay = two_of_one_id(&home);
    let listed = ben(&home, &relay, &["notes", "refused"]).ok();
    assert!(listed.contains("Same") && listed.contains("1 change refused: "), "{listed}");
    assert!(listed.contains("(unrelated)") && listed.contains("notes merge "), "{listed}");
    let list = ben(&home, &relay, &["notes", "list"]).ok();
    assert!(list.contains("!Same") && list.contains(" Elsewhere"), "{list}");
    // The other note is not affected.
    assert!(!listed.contains("Elsewhere"), "{listed}");
    let ann = home.at(&relay, &["--store", "ann", "notes", "refused"]);
    assert!(ann.err().contains("refused no changes"), "{}", ann.err());
    assert_eq!(ann.ok(), "");
    let done = ben(&home, &relay, &["notes", "export", "same", "same.automerge"]);
    assert!(done.err().contains("with 1 change that the relay does not have"), "{}", done.err());
    done.ok();
    let saved = Automerge::load(&std::fs::read(home.path("same.automerge")).unwrap()).unwrap();
    let (_, body) = saved.get(ROOT, "body").unwrap().unwrap();
    assert_eq!(saved.text(&body).unwrap(), "by Ben");
}

#[test]
fn a_second_rejection_is_reported_with_its_reason() {
    let home = Home::new();
    let relay = two_of_one_id(&home);
    for command in ["retry", "reauthor"] {
        ben(&home, &relay, &["notes", command, "same"])
            .failed(4, &["the relay refuses it", "(unrelated)", "it is kept"]);
    }
    assert_eq!(ben(&home, &relay, &["-q", "notes", "show", "same"]).ok(), "Same\nby Ben\n");
    for command in ["retry", "reauthor", "merge"] {
        ben(&home, &relay, &["notes", command, "elsewhere"])
            .failed(5, &["nothing was done", "refused no change of `elsewhere`"]);
        ben(&home, &relay, &["notes", command, "nowhere"]).failed(5, &["no note `nowhere`"]);
    }
}

/// The relay is restored to the state before Ann's note: it has no reason any more to reject Ben's.
#[test]
fn a_retry_is_accepted_once_the_relay_can_apply_it() {
    for (command, says) in [("retry", "pushed again"), ("reauthor", "1 change recreated")] {
        let home = Home::new();
        let mut relay = two_of_one_id(&home);
        relay.restore(&home, "early");
        let done = ben(&home, &relay, &["notes", command, "same"]).ok();
        assert_eq!(done, format!("{says}: saved here and on the relay\n"));
        assert_eq!(ben(&home, &relay, &["notes", "refused"]).ok(), "");
        home.at(&relay, &["--store", "cem", "sync"]).ok();
        let shown = home.run(&["--store", "cem", "-q", "notes", "show", "same"]).ok();
        assert_eq!(shown, "Same\nby Ben\n");
    }
}

#[test]
fn notes_merge_merges_two_notes_of_one_id() {
    let home = Home::new();
    let relay = two_of_one_id(&home);
    let done = ben(&home, &relay, &["notes", "merge", "same"]).ok();
    assert_eq!(done, "merged with the other note of this id: saved here and on the relay\n");
    home.at(&relay, &["--store", "ann", "sync"]).ok();
    let mut shown = Vec::new();
    for store in ["ann", "ben"] {
        let check = home.run(&["--store", store, "notes", "check", "same"]);
        assert!(check.err().contains("`body` was set to 2 values"), "{}", check.err());
        shown.push(home.run(&["--store", store, "-q", "notes", "show", "same"]).ok());
    }
    assert_eq!(shown[0], shown[1]);
}

#[cfg(unix)]
#[test]
fn watch_reports_another_note_with_the_same_id() {
    let home = Home::new();
    let mut relay = two_of_one_id(&home);
    // The restored relay has another epoch, so Ben pushes and is rejected again.
    relay.restore(&home, "early");
    home.at(&relay, &["--store", "ann", "sync"]).ok();
    let mut watch = home.start(&["--store", "ben", "--relay", &relay.url, "watch"]);
    let line = watch.until("see `notes refused`");
    assert!(line.contains("“Same”"), "{line}");
    assert_eq!(watch.signal("-INT"), Some(0));
}
