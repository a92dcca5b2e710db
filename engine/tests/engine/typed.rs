//! Documents as types: concurrent edits are not lost, the value in the document decides how it is
//! written, and every failure names the type and the path.

use std::collections::{BTreeMap, HashMap};

use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value};
use landfall::{
    BoxError, ChangeError, Counter, Document, Hydrate, Options, ReadError, Reconcile, Space, Store,
    Text, TypedError,
};

fn space() -> (Store, Space) {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    (store, space)
}

/// A string as JavaScript writes it.
fn put_text(tx: &mut Transaction<'_>, obj: &ObjId, key: &str, value: &str) -> Result<(), BoxError> {
    let text = tx.put_object(obj, key, ObjType::Text)?;
    Ok(tx.splice_text(&text, 0, 0, value)?)
}

fn push_text(tx: &mut Transaction<'_>, list: &ObjId, value: &str) -> Result<(), BoxError> {
    let text = tx.insert_object(list, tx.length(list), ObjType::Text)?;
    Ok(tx.splice_text(&text, 0, 0, value)?)
}

#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
struct Board {
    title: String,
    size: f64,
    votes: u64,
    note: Option<i64>,
    tags: Vec<String>,
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
struct Item {
    #[key]
    id: u64,
    what: String,
}

fn item(id: u64, what: &str) -> Item {
    Item { id, what: what.to_owned() }
}

/// A board as a JavaScript program writes it: strings are text objects, whole numbers integers, and
/// undefined values are missing.
fn of_javascript(space: &Space) -> Document {
    space
        .create(|tx| {
            put_text(tx, &ROOT, "title", "Plans")?;
            tx.put(ROOT, "size", 3)?;
            tx.put(ROOT, "votes", 7)?;
            let tags = tx.put_object(ROOT, "tags", ObjType::List)?;
            push_text(tx, &tags, "red")?;
            push_text(tx, &tags, "blue")?;
            let items = tx.put_object(ROOT, "items", ObjType::List)?;
            for (at, what) in ["eggs", "milk"].into_iter().enumerate() {
                let item = tx.insert_object(&items, at, ObjType::Map)?;
                tx.put(&item, "id", at as i64)?;
                put_text(tx, &item, "what", what)?;
            }
            Ok(())
        })
        .unwrap()
        .0
}

/// The object at a path, which must be a text.
fn text_at(document: &Document, path: &[&str]) -> ObjId {
    document
        .read(|doc| {
            let mut object = ROOT;
            for step in path {
                let found = match step.parse::<usize>() {
                    Ok(index) => doc.get(&object, index),
                    Err(_) => doc.get(&object, *step),
                };
                object = found.unwrap().unwrap().1;
            }
            assert_eq!(doc.object_type(&object).unwrap(), ObjType::Text, "{path:?}");
            object
        })
        .unwrap()
}

fn typed<T: std::fmt::Debug>(outcome: Result<T, ChangeError>) -> TypedError {
    match outcome {
        Err(ChangeError::Typed(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn typed_read<T: std::fmt::Debug>(outcome: Result<T, ReadError>) -> TypedError {
    match outcome {
        Err(ReadError::Typed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_document_of_javascript_is_read_and_the_same_value_changes_nothing() {
    let (_store, space) = space();
    let document = of_javascript(&space);
    let heads = document.heads().unwrap();
    let board = document.hydrate::<Board>().unwrap();
    let expected = Board {
        title: "Plans".to_owned(),
        size: 3.0,
        votes: 7,
        note: None,
        tags: vec!["red".to_owned(), "blue".to_owned()],
        items: vec![item(0, "eggs"), item(1, "milk")],
    };
    assert_eq!(board, expected);
    document.edit::<Board>(|_| {}).unwrap();
    document.reconcile(&board).unwrap();
    assert_eq!(document.reconcile_at(&heads, &board).unwrap(), heads);
    assert_eq!(document.heads().unwrap(), heads);
}

#[test]
fn an_edit_of_a_document_of_javascript_leaves_it_as_javascript_expects() {
    let (_store, space) = space();
    let document = of_javascript(&space);
    let texts: &[&[&str]] = &[&["title"], &["tags", "0"], &["items", "0", "what"]];
    let before: Vec<ObjId> = texts.iter().map(|path| text_at(&document, path)).collect();
    document
        .edit::<Board>(|board| {
            board.title.push_str(" for May");
            board.size = 2.5;
            board.votes += 1;
            board.tags.push("green".to_owned());
            board.items[0].what.insert_str(0, "six ");
            board.items.push(item(2, "tea"));
        })
        .unwrap();
    let after: Vec<ObjId> = texts.iter().map(|path| text_at(&document, path)).collect();
    assert_eq!(after, before, "texts were edited in place");
    // New values have the kinds of their neighbours.
    text_at(&document, &["tags", "2"]);
    text_at(&document, &["items", "2", "what"]);
    let board = document.hydrate::<Board>().unwrap();
    assert_eq!((board.title.as_str(), board.size, board.votes), ("Plans for May", 2.5, 8));
    assert_eq!(board.items, [item(0, "six eggs"), item(1, "milk"), item(2, "tea")]);
    assert_eq!(board.tags, ["red", "blue", "green"]);
}

#[test]
fn changes_received_between_reading_and_writing_are_merged() {
    let (store, space) = space();
    let document = of_javascript(&space);
    let (mut board, heads) = document.hydrate_with_heads::<Board>().unwrap();
    document
        .edit::<Board>(|theirs| {
            theirs.title.push_str(" and hopes");
            theirs.tags.insert(0, "first".to_owned());
            theirs.items.push(item(9, "bread"));
        })
        .unwrap();
    board.title.insert_str(0, "Our ");
    board.votes = 8;
    board.items.retain(|item| item.id != 0);
    let at = document.reconcile_at(&heads, &board).unwrap();
    let merged = document.hydrate::<Board>().unwrap();
    assert_eq!(merged.title, "Our Plans and hopes");
    assert_eq!(merged.tags, ["first", "red", "blue"]);
    assert_eq!(merged.items, [item(1, "milk"), item(9, "bread")]);
    // A call at the returned heads uses the same actor again.
    let actors = |document: &Document| document.status().unwrap().actors;
    let branched = actors(&document);
    let mut at = at;
    for votes in 9..20 {
        board.votes = votes;
        at = document.reconcile_at(&at, &board).unwrap();
        document.edit::<Board>(|theirs| theirs.size += 1.0).unwrap();
    }
    assert_eq!((actors(&document), branched), (2, 2));
    assert_eq!(document.get::<u64>("votes").unwrap(), 19);
    assert_eq!(document.get::<f64>("size").unwrap(), 14.0);
    store.close().unwrap();
}

#[derive(Debug, Hydrate, Reconcile)]
struct Letter {
    body: Text,
    parts: Vec<Text>,
    read: Counter,
}

#[test]
fn texts_are_objects_that_merge_and_keep_their_identity_in_lists() {
    let (_store, space) = space();
    let parts = ["one", "two"].map(Text::from).to_vec();
    let letter = Letter { body: "Häuser 🏝️".into(), parts, read: Counter::default() };
    let document = space.create_from(&letter).unwrap();
    let (body, two) = (text_at(&document, &["body"]), text_at(&document, &["parts", "1"]));
    let (mut ours, heads) = document.hydrate_with_heads::<Letter>().unwrap();
    document
        .edit::<Letter>(|theirs| {
            theirs.body.push_str(" am Meer");
            theirs.parts[1].push('!');
            theirs.read.increment(2);
        })
        .unwrap();
    ours.body.insert_str(0, "Zwei ");
    ours.parts.insert(0, "zero".into());
    ours.parts[2].insert_str(0, "number ");
    ours.read.increment(3);
    document.reconcile_at(&heads, &ours).unwrap();
    let merged = document.hydrate::<Letter>().unwrap();
    assert_eq!(merged.body, "Zwei Häuser 🏝️ am Meer");
    assert_eq!(merged.parts, ["zero", "one", "number two!"]);
    assert_eq!(merged.read.value(), 5);
    assert_eq!(text_at(&document, &["body"]), body);
    assert_eq!(text_at(&document, &["parts", "2"]), two);
    // A newly made value is compared with the one in the document.
    let heads = document.heads().unwrap();
    let same = document.get::<String>("body").unwrap();
    document.edit::<Letter>(|letter| letter.body = same.into()).unwrap();
    assert_eq!(document.heads().unwrap(), heads);
}

#[derive(Debug, Hydrate, Reconcile)]
struct Title {
    title: Text,
}

#[test]
fn a_plain_string_stays_one_until_a_text_edits_it() {
    let (_store, space) = space();
    let document = space.create(|tx| Ok(tx.put(ROOT, "title", "plain")?)).unwrap().0;
    let heads = document.heads().unwrap();
    document.edit::<Title>(|_| {}).unwrap();
    assert_eq!(document.heads().unwrap(), heads);
    document.edit::<Title>(|title| title.title.push('!')).unwrap();
    text_at(&document, &["title"]);
    assert_eq!(document.get::<String>("title").unwrap(), "plain!");
}

#[derive(Debug, Hydrate, Reconcile)]
struct Numbers {
    count: i64,
    when: i64,
    wide: u64,
    floats: Vec<f64>,
    by_name: HashMap<String, f64>,
    gone: Option<f64>,
}

#[test]
fn numbers_of_another_kind_are_read_and_keep_their_kind() {
    let (_store, space) = space();
    let document = space
        .create(|tx| {
            tx.put(ROOT, "count", ScalarValue::counter(5))?;
            tx.put(ROOT, "when", ScalarValue::Timestamp(1_000))?;
            tx.put(ROOT, "wide", 12)?;
            tx.put(ROOT, "gone", 4)?;
            let floats = tx.put_object(ROOT, "floats", ObjType::List)?;
            for at in 0..500 {
                match at % 2 {
                    0 => tx.insert(&floats, at, at as i64)?,
                    _ => tx.insert(&floats, at, at as f64 + 0.5)?,
                }
            }
            let names = tx.put_object(ROOT, "by_name", ObjType::Map)?;
            for at in 0..500 {
                tx.put(&names, format!("name {at}"), at as i64)?;
            }
            Ok(())
        })
        .unwrap()
        .0;
    let heads = document.heads().unwrap();
    let numbers = document.hydrate::<Numbers>().unwrap();
    assert_eq!(
        (numbers.count, numbers.when, numbers.wide, numbers.gone),
        (5, 1_000, 12, Some(4.0))
    );
    assert_eq!((numbers.floats[2], numbers.floats[3]), (2.0, 3.5));
    assert_eq!(numbers.by_name["name 499"], 499.0);
    document.reconcile(&numbers).unwrap();
    assert_eq!(document.heads().unwrap(), heads, "the same numbers are no change");
    document
        .edit::<Numbers>(|numbers| {
            numbers.count += 2;
            numbers.when += 1;
            numbers.floats.remove(0);
        })
        .unwrap();
    document
        .read(|doc| {
            let scalar = |key: &str| match doc.get(ROOT, key).unwrap().unwrap().0 {
                Value::Scalar(scalar) => scalar.into_owned(),
                Value::Object(kind) => panic!("{kind}"),
            };
            assert_eq!(scalar("count"), ScalarValue::counter(7));
            assert_eq!(scalar("when"), ScalarValue::Timestamp(1_001));
        })
        .unwrap();
    let change = document.read(|doc| doc.get_last_local_change().unwrap().len()).unwrap();
    assert!(change <= 6, "{change} operations for three edits");
    assert_eq!(document.get::<Vec<f64>>("floats").unwrap().len(), 499);
}

#[test]
fn a_map_whose_keys_are_data_is_read_with_all_of_them() {
    #[derive(Debug, Hydrate, Reconcile)]
    struct People {
        by_id: BTreeMap<String, Person>,
        by_room: BTreeMap<String, BTreeMap<String, Person>>,
        /// It is missing too, under the same name as an `Option` that is.
        #[landfall(missing = "nobody")]
        nick: i64,
    }
    fn nobody() -> i64 {
        -1
    }
    #[derive(Debug, Hydrate, Reconcile)]
    struct Person {
        name: String,
        nick: Option<String>,
    }
    let (_store, space) = space();
    let document = space
        .create(|tx| {
            let people = tx.put_object(ROOT, "by_id", ObjType::Map)?;
            for at in 0..400 {
                let person = tx.put_object(&people, format!("p{at}"), ObjType::Map)?;
                put_text(tx, &person, "name", &format!("Person {at}"))?;
            }
            let rooms = tx.put_object(ROOT, "by_room", ObjType::Map)?;
            for at in 0..400 {
                let name = format!("r{}", at / 20);
                let room = match tx.get(&rooms, name.as_str())? {
                    Some((_, room)) => room,
                    None => tx.put_object(&rooms, name, ObjType::Map)?,
                };
                let person = tx.put_object(&room, format!("p{at}"), ObjType::Map)?;
                put_text(tx, &person, "name", &format!("Person {at}"))?;
            }
            Ok(())
        })
        .unwrap()
        .0;
    let heads = document.heads().unwrap();
    let people = document.hydrate::<People>().unwrap();
    assert_eq!((people.by_id.len(), people.by_id["p7"].name.as_str()), (400, "Person 7"));
    assert!(people.by_id.values().all(|person| person.nick.is_none()));
    assert_eq!((people.by_room.len(), people.nick), (20, -1));
    assert_eq!(people.by_room["r19"]["p399"].name, "Person 399");
    document
        .edit::<People>(|people| {
            assert_eq!(people.nick, -1);
            people.nick = 4;
        })
        .unwrap();
    assert_ne!(document.heads().unwrap(), heads);
    let heads = document.heads().unwrap();
    document.reconcile(&document.hydrate::<People>().unwrap()).unwrap();
    assert_eq!(document.heads().unwrap(), heads);
}

#[test]
fn a_type_error_names_the_path_and_the_value_found() {
    let (_store, space) = space();
    let document = of_javascript(&space);
    document
        .change(|tx| {
            let items = tx.get(ROOT, "items")?.ok_or("no items")?.1;
            let item = tx.get(&items, 1)?.ok_or("no item")?.1;
            Ok(tx.put(&item, "what", 5)?)
        })
        .unwrap();
    let error = typed_read(document.hydrate::<Board>());
    let TypedError::Kind { path, found, wanted } = &error else { panic!("{error:?}") };
    assert_eq!((path.as_str(), found.as_str()), ("items[1].what", "the integer 5"));
    assert!(wanted.ends_with("Board"), "{wanted}");
    let same = typed(document.edit::<Board>(|_| panic!("it is not run")));
    assert_eq!(same.to_string(), error.to_string());

    #[derive(Debug, Hydrate, Reconcile)]
    struct Wanting {
        colour: String,
    }
    let error = typed_read(document.hydrate::<Wanting>());
    assert!(matches!(&error, TypedError::Missing { path, .. } if path == "colour"), "{error:?}");
    assert!(error.to_string().contains("`Option`"), "{error}");
    let error = typed_read(document.hydrate::<Vec<String>>());
    assert!(matches!(error, TypedError::NotAMap { .. }), "{error:?}");
    let error = typed(document.reconcile(&vec!["x".to_owned()]));
    assert!(matches!(error, TypedError::NotAMap { .. }), "{error:?}");
    let error = typed_read(document.get::<u8>("votes.more"));
    assert!(matches!(&error, TypedError::NoPlace { path, .. } if path == "votes"), "{error:?}");
}

#[test]
fn values_are_read_by_path() {
    let (_store, space) = space();
    let document = of_javascript(&space);
    assert_eq!(document.get::<String>("items[1].what").unwrap(), "milk");
    assert_eq!(document.get::<Vec<Item>>("items").unwrap().len(), 2);
    assert_eq!(document.get::<Option<i64>>("note").unwrap(), None);
    assert_eq!(document.get::<f64>("size").unwrap(), 3.0);
    assert_eq!(document.get::<Board>("").unwrap(), document.hydrate().unwrap());
    let missing = |path: &str| match typed_read(document.get::<String>(path)) {
        TypedError::Missing { path, .. } => path,
        other => panic!("{other:?}"),
    };
    assert_eq!((missing("items[7]"), missing("x")), ("items[7]".to_owned(), "x".to_owned()));
    let nowhere = |asked: &str| match typed_read(document.get::<String>(asked)) {
        TypedError::NoPlace { path, .. } => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(nowhere("none.below"), "none");
    assert_eq!(nowhere("items.first"), "items");
    assert_eq!(nowhere("title[0]"), "title");
    assert_eq!(nowhere("[0]"), "");
    let bad = typed_read(document.get::<String>("items[").map(drop));
    assert!(matches!(bad, TypedError::BadPath { at: 5, .. }), "{bad:?}");
}

/// autosurgeon's own `Text` is bound to the state and document from which it was read.
mod of_autosurgeon {
    use super::*;

    #[derive(Debug, Clone, Hydrate, Reconcile)]
    struct Page {
        #[key]
        name: String,
        text: ::autosurgeon::Text,
    }

    #[derive(Debug, Clone, Hydrate, Reconcile)]
    struct Book {
        pages: Vec<Page>,
    }

    fn book(space: &Space) -> Document {
        let page = |name: &str| Page { name: name.to_owned(), text: "über".into() };
        space.create_from(&Book { pages: vec![page("a"), page("b")] }).unwrap()
    }

    #[test]
    fn splices_apply_to_the_state_that_was_read() {
        let (_store, space) = space();
        let document = book(&space);
        document.edit::<Book>(|book| book.pages[1].text.splice(2, 1, "BB")).unwrap();
        let (mut ours, heads) = document.hydrate_with_heads::<Book>().unwrap();
        document.edit::<Book>(|book| book.pages[1].text.splice(6, 0, "!")).unwrap();
        ours.pages[1].text.splice(0, 2, "ü");
        document.reconcile_at(&heads, &ours).unwrap();
        assert_eq!(document.get::<String>("pages[1].text").unwrap(), "üBBer!");
    }

    #[test]
    fn stale_values_are_errors_and_cause_no_panic() {
        let (_store, space) = space();
        let document = book(&space);
        let stale = |outcome| match typed(outcome) {
            TypedError::Stale { path } => path,
            other => panic!("{other:?}"),
        };
        let ours = document.hydrate::<Book>().unwrap();
        // Another change came in between.
        document.change(|tx| Ok(tx.put(ROOT, "other", 1)?)).unwrap();
        let heads = document.heads().unwrap();
        assert_eq!(stale(document.reconcile(&ours)), "pages[0].text");
        // A page of it was removed meanwhile, so that it would have to be created again.
        document.edit::<Book>(|book| book.pages.clear()).unwrap();
        let emptied = document.heads().unwrap();
        assert!(stale(document.reconcile(&ours)).starts_with("pages"));
        // Another document, which is empty.
        let other = space.create(|_| Ok(())).unwrap().0;
        stale(other.reconcile(&ours));
        assert_eq!(document.heads().unwrap(), emptied);
        assert_ne!(heads, emptied);
        // The documents can still be edited.
        other
            .edit::<HashMap<String, i64>>(|map| {
                map.insert("k".to_owned(), 1);
            })
            .unwrap();
        document.change(|tx| Ok(tx.put(ROOT, "other", 2)?)).unwrap();
    }
}

/// A value whose code panics.
#[derive(Debug)]
struct Faulty;

impl Hydrate for Faulty {
    fn hydrate_int(value: i64) -> Result<Self, ::autosurgeon::HydrateError> {
        panic!("cannot read {value}");
    }
}

impl Reconcile for Faulty {
    type Key<'a> = ::autosurgeon::reconcile::NoKey;

    fn reconcile<R: ::autosurgeon::Reconciler>(&self, _: R) -> Result<(), R::Error> {
        panic!("cannot write");
    }
}

#[test]
fn a_panic_in_a_type_is_an_error_and_one_in_a_closure_propagates() {
    let (_store, space) = space();
    let document = space.create(|tx| Ok(tx.put(ROOT, "n", 5)?)).unwrap().0;
    let heads = document.heads().unwrap();
    let of_read = typed_read(document.get::<Faulty>("n"));
    let of_edit = typed(document.edit::<HashMap<String, Faulty>>(|_| {}));
    for error in [of_read, of_edit] {
        let TypedError::Panicked { path, what } = &error else { panic!("{error:?}") };
        assert_eq!((path.as_str(), what.as_str()), ("n", "cannot read 5"));
    }
    let of_write = typed(document.reconcile(&HashMap::from([("m".to_owned(), Faulty)])));
    assert!(matches!(of_write, TypedError::Panicked { .. }), "{of_write:?}");
    let closure = std::panic::AssertUnwindSafe(|| {
        document.edit::<HashMap<String, i64>>(|_| panic!("of the application"))
    });
    assert!(std::panic::catch_unwind(closure).is_err());
    let given = document.try_edit(|map: &mut HashMap<String, i64>| {
        map.clear();
        Err::<(), _>("no".into())
    });
    assert!(matches!(given, Err(ChangeError::Closure(error)) if error.to_string() == "no"));
    assert_eq!(document.heads().unwrap(), heads);
    let given = document.try_edit(|map: &mut HashMap<String, i64>| Ok(map.len())).unwrap();
    assert_eq!(given, 1);
}

#[test]
fn every_typed_call_on_a_deleted_document_fails_as_deleted() {
    let (_store, space) = space();
    let document = of_javascript(&space);
    let (board, heads) = document.hydrate_with_heads::<Board>().unwrap();
    space.delete(document.id()).unwrap();
    assert!(matches!(document.hydrate::<Board>(), Err(ReadError::Deleted)));
    assert!(matches!(document.get::<String>("title"), Err(ReadError::Deleted)));
    assert!(matches!(document.edit::<Board>(|_| {}), Err(ChangeError::Deleted)));
    assert!(matches!(document.reconcile(&board), Err(ChangeError::Deleted)));
    assert!(matches!(document.reconcile_at(&heads, &board), Err(ChangeError::Deleted)));
}

#[test]
fn a_group_commits_typed_edits_together_and_survives_a_failed_one() {
    let (store, space) = space();
    let (one, other) = (of_javascript(&space), of_javascript(&space));
    store
        .group(|group| {
            group.edit::<Board>(&one, |board| board.votes = 1)?;
            let failed = group.edit::<HashMap<String, i64>>(&other, |_| {});
            assert!(matches!(failed, Err(ChangeError::Typed(TypedError::Kind { .. }))));
            group.edit::<Board>(&other, |board| board.votes = 2)
        })
        .unwrap();
    assert_eq!(one.get::<u64>("votes").unwrap(), 1);
    assert_eq!(other.get::<u64>("votes").unwrap(), 2);
}
