//! Checks of documents that differ from the relay's for a known reason.

use landfall::automerge::{ROOT, transaction::Transactable, transaction::Transaction};
use landfall::{BoxError, EventKind};
use landfall_tests::PATIENCE;
use landfall_tests::process::Relay;
use landfall_tests::replica::{link, open, wait_for};

/// The relay has an unrelated history of a document and rejects this store's changes. The store
/// reported that once as a rejection, and finds the difference again in each check.
#[test]
fn a_check_does_not_report_a_rejected_document_as_drift() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let [one, two] = ["one", "two"].map(|name| open(&folder.path().join(name)));
    let version = |n: i64| {
        move |tx: &mut Transaction<'_>| -> Result<(), BoxError> { Ok(tx.put(ROOT, "version", n)?) }
    };
    one.space("s").unwrap().create_named("config", version(1)).unwrap();
    one.connect(link(&relay.url)).unwrap();
    one.flush_blocking(PATIENCE).unwrap();
    let space = two.space("s").unwrap();
    let rejected = space.create_named("config", version(2)).unwrap();
    let other = space.create(version(3)).unwrap().0;
    let mut events = two.events();
    two.connect(link(&relay.url)).unwrap();
    wait_for(&two, "the refusal", |status| status.spaces[space.name()].rejected.len() == 1);
    let before = space.status().unwrap().checks;
    for _ in 0..4 {
        assert_eq!(two.check_blocking().unwrap(), 0, "nothing has drifted");
    }
    let status = space.status().unwrap();
    assert!(status.checks >= before + 4, "each check has finished: {status:?}");
    assert_eq!((status.drifted, status.rejected.len()), (0, 1));
    let (mut drifted, mut refusals) = (0, 0);
    while let Some(event) = events.try_next() {
        let event = event.unwrap();
        drifted += u32::from(matches!(event.kind, EventKind::Drifted));
        refusals += u32::from(matches!(event.kind, EventKind::Rejected { .. }));
    }
    assert_eq!((drifted, refusals), (0, 1));
    assert!(rejected.status().unwrap().rejected.is_some());
    assert!(other.status().unwrap().rejected.is_none());
}
