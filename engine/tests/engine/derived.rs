//! The derive macros write the same documents as autosurgeon's own, for types of every form.

use std::collections::BTreeMap;
use std::fmt::Debug;

use landfall::automerge::{ObjId, ROOT};
use landfall::autosurgeon::reconcile::LoadKey;
use landfall::autosurgeon::{HydrateError, Prop, ReadDoc, Reconciler};
use landfall::{Document, Hydrate, Options, Reconcile, Space, Store, Text};

fn space() -> (Store, Space) {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    (store, space)
}

/// Writes a value to a new document, reads it back, and writes it again, which is no change.
fn round<T: Hydrate + Reconcile + PartialEq + Debug>(space: &Space, value: &T) -> Document {
    let document = space.create_from(value).unwrap();
    assert_eq!(document.hydrate::<T>().unwrap(), *value);
    let heads = document.heads().unwrap();
    document.edit::<T>(|_| {}).unwrap();
    assert_eq!(document.heads().unwrap(), heads);
    document
}

/// The contents of a document, without object ids.
fn shown(document: &Document) -> String {
    document.read(|doc| plain(&doc.hydrate(None))).unwrap()
}

fn plain(value: &landfall::automerge::hydrate::Value) -> String {
    use landfall::automerge::hydrate::Value;
    match value {
        Value::Scalar(value) => format!("{value:?}"),
        Value::Text(text) => format!("{text:?}"),
        Value::List(list) => list.iter().map(|item| plain(&item.value) + ",").collect(),
        Value::Map(map) => {
            let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (k, plain(&v.value))).collect();
            format!("{sorted:?}")
        }
    }
}

/// The same types, derived by each of the two.
macro_rules! shapes {
    ($module:ident, $derives:path) => {
        mod $module {
            use $derives as derives;

            #[derive(Debug, Clone, PartialEq, derives::Hydrate, derives::Reconcile)]
            pub struct All {
                pub named: Named,
                pub tuple: Tuple,
                pub id: Id,
                #[autosurgeon(rename = "kind-of")]
                pub kinds: Vec<Kind>,
                pub one: Option<Kind>,
            }

            #[derive(Debug, Clone, PartialEq, derives::Hydrate, derives::Reconcile)]
            pub struct Named {
                #[key]
                pub word: String,
                pub list: Vec<Tuple>,
            }

            #[derive(Debug, Clone, PartialEq, derives::Hydrate, derives::Reconcile)]
            pub struct Tuple(pub i64, #[key] pub bool);

            #[derive(Debug, Clone, PartialEq, derives::Hydrate, derives::Reconcile)]
            pub struct Id(pub u64);

            #[derive(Debug, Clone, PartialEq, derives::Hydrate, derives::Reconcile)]
            pub enum Kind {
                Plain,
                #[autosurgeon(rename = "other plain")]
                Renamed,
                Number(f64),
                Pair(i64, String),
                Record {
                    #[key]
                    id: u64,
                    #[autosurgeon(rename = "has")]
                    what: bool,
                },
            }

            pub fn all() -> All {
                All {
                    named: Named { word: "t".to_owned(), list: vec![Tuple(1, true)] },
                    tuple: Tuple(-2, false),
                    id: Id(7),
                    kinds: vec![
                        Kind::Plain,
                        Kind::Number(1.5),
                        Kind::Renamed,
                        Kind::Pair(3, "p".to_owned()),
                        Kind::Record { id: 4, what: true },
                    ],
                    one: Some(Kind::Record { id: 5, what: false }),
                }
            }
        }
    };
}

shapes!(ours, landfall);
shapes!(theirs, ::autosurgeon);

#[test]
fn types_of_every_form_round_trip_and_match_autosurgeon() {
    let (_store, space) = space();
    let ours = round(&space, &ours::all());
    let theirs = round(&space, &theirs::all());
    assert_eq!(shown(&ours), shown(&theirs));
    ours.hydrate::<theirs::All>().unwrap();
    theirs.hydrate::<ours::All>().unwrap();
    let edits = |kinds: &mut Vec<ours::Kind>| {
        kinds.remove(0);
        kinds.insert(2, ours::Kind::Plain);
        if let ours::Kind::Record { what, .. } = &mut kinds[4] {
            *what = false;
        }
    };
    ours.edit::<ours::All>(|all| edits(&mut all.kinds)).unwrap();
    theirs.edit::<ours::All>(|all| edits(&mut all.kinds)).unwrap();
    assert_eq!(shown(&ours), shown(&theirs));
    let mut expected = ours::all();
    edits(&mut expected.kinds);
    assert_eq!(ours.hydrate::<ours::All>().unwrap(), expected);
}

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
struct Nested {
    r#type: i64,
    id: Option<ours::Id>,
    ids: Vec<Option<ours::Id>>,
    kind: Option<Only>,
}

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
enum Only {
    One,
    Empty {},
}

/// `Option` calls the methods of its inner type one by one.
#[test]
fn newtypes_and_enums_are_read_inside_options() {
    let (_store, space) = space();
    let ids = vec![Some(ours::Id(1)), None];
    let nested = Nested { r#type: 1, id: Some(ours::Id(2)), ids, kind: Some(Only::One) };
    assert_eq!(round(&space, &nested).get::<i64>("type").unwrap(), 1);
    round(&space, &Nested { r#type: 1, id: None, ids: vec![], kind: Some(Only::Empty {}) });
    round(&space, &Nested { r#type: 1, id: None, ids: vec![], kind: None });
}

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
struct Generic<'a, T, const N: usize>
where
    T: Clone,
{
    value: T,
    either: Either<T, Vec<T>>,
    #[landfall(with = "skipped")]
    marker: std::marker::PhantomData<&'a [T; N]>,
}

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
enum Either<A, B> {
    A(A),
    B { inner: B },
}

mod skipped {
    use super::*;

    pub fn hydrate<D: ReadDoc, T>(_: &D, _: &ObjId, _: Prop<'_>) -> Result<T, HydrateError>
    where
        T: Default,
    {
        Ok(T::default())
    }

    pub fn reconcile<T, R: Reconciler>(_: &T, mut reconciler: R) -> Result<(), R::Error> {
        reconciler.none()
    }
}

#[test]
fn generic_types_are_derived() {
    let (_store, space) = space();
    let marker = std::marker::PhantomData;
    let either = Either::B { inner: vec![1i64] };
    round(&space, &Generic::<'_, i64, 3> { value: 5i64, either, marker });
    round(&space, &Generic::<'_, i64, 3> { value: 5i64, either: Either::A(2), marker });
}

/// A value of a crate that knows nothing of documents.
#[derive(Debug, Clone, PartialEq)]
struct Celsius(f64);

mod celsius {
    use super::*;

    pub type Key<'a> = f64;

    pub fn hydrate<D: ReadDoc>(
        doc: &D,
        obj: &ObjId,
        prop: Prop<'_>,
    ) -> Result<Celsius, HydrateError> {
        f64::hydrate(doc, obj, prop).map(Celsius)
    }

    pub fn reconcile<R: Reconciler>(value: &Celsius, mut reconciler: R) -> Result<(), R::Error> {
        reconciler.f64(value.0)
    }

    pub fn hydrate_key<'k, D: ReadDoc>(
        doc: &D,
        obj: &ObjId,
        prop: Prop<'_>,
    ) -> Result<LoadKey<Key<'k>>, landfall::autosurgeon::ReconcileError> {
        f64::hydrate_key(doc, obj, prop)
    }

    pub fn key(value: &Celsius) -> LoadKey<Key<'_>> {
        LoadKey::Found(value.0)
    }
}

fn freezing() -> Celsius {
    Celsius(0.0)
}

fn doubled<R: Reconciler>(value: &i64, mut reconciler: R) -> Result<(), R::Error> {
    reconciler.i64(value * 2)
}

fn halved<D: ReadDoc>(doc: &D, obj: &ObjId, prop: Prop<'_>) -> Result<i64, HydrateError> {
    i64::hydrate(doc, obj, prop).map(|value| value / 2)
}

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
struct Weather {
    #[autosurgeon(with = "celsius", missing = "freezing")]
    now: Celsius,
    #[autosurgeon(missing = "Default::default")]
    wind: i64,
    #[autosurgeon(reconcile = "doubled", hydrate = "halved")]
    half: i64,
    past: Vec<Degrees>,
    report: Report,
}

#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
struct Degrees(#[autosurgeon(with = "celsius")] Celsius);

#[derive(Debug, PartialEq, Hydrate, Reconcile)]
enum Report {
    Measured(#[autosurgeon(with = "celsius")] Celsius),
    Guessed {
        #[autosurgeon(reconcile = "doubled", hydrate = "halved")]
        half: i64,
        by: Text,
    },
}

#[test]
fn fields_have_custom_functions_and_defaults() {
    let (_store, space) = space();
    let past = vec![Degrees(Celsius(1.0)), Degrees(Celsius(2.0))];
    let report = Report::Guessed { half: 21, by: "Ada".into() };
    let weather = Weather { now: Celsius(5.5), wind: 3, half: 4, past, report };
    let document = round(&space, &weather);
    assert_eq!(document.get::<i64>("half").unwrap(), 8);
    assert_eq!(document.get::<i64>("report.Guessed.half").unwrap(), 42);
    document.edit::<Weather>(|weather| weather.report = Report::Measured(Celsius(1.5))).unwrap();
    let left = document.get::<Option<i64>>("report.Guessed").unwrap();
    assert_eq!(left, None, "the previous variant is removed");
    document
        .change(|tx| {
            use landfall::automerge::transaction::Transactable;
            tx.delete(ROOT, "now")?;
            Ok(tx.delete(ROOT, "wind")?)
        })
        .unwrap();
    let read = document.hydrate::<Weather>().unwrap();
    assert_eq!((read.now, read.wind), (freezing(), 0));
}

#[test]
fn an_unknown_variant_error_lists_the_variants() {
    let (_store, space) = space();
    let document = round(&space, &ours::all());
    document
        .change(|tx| {
            use landfall::automerge::transaction::Transactable;
            Ok(tx.put(ROOT, "one", "Unheard of")?)
        })
        .unwrap();
    let error = document.hydrate::<ours::All>().unwrap_err().to_string();
    assert!(error.contains("`one` is the string `Unheard of`"), "{error}");
    assert!(error.contains("one of `Plain`, `other plain`"), "{error}");
    document
        .change(|tx| {
            use landfall::automerge::transaction::Transactable;
            let one = tx.put_object(ROOT, "one", landfall::automerge::ObjType::Map)?;
            Ok(tx.put(&one, "Unheard of", 1)?)
        })
        .unwrap();
    let error = document.hydrate::<ours::All>().unwrap_err().to_string();
    assert!(error.contains("`one` is a map without any of them"), "{error}");
}
