//! A child that cannot be started: what was offered is not to blame.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_child_an_upload_is_asked_for_again_later() {
    let mut bench = Bench::new("/nonexistent/worker".into()).await;
    let refusal = bench.chunks(vec![1, 2, 3]).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::OVERLOADED, NackClass::RETRY_AFTER));
    assert!(refusal.retry_after_ms > 0, "{refusal:?}");
    assert!(refusal.what.contains("could not be started"), "{refusal:?}");
    // One that is stopped says as little about it.
    bench.folder.end_jobs();
    let refusal = bench.chunks(vec![1, 2, 3]).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::OVERLOADED, NackClass::RETRY_AFTER));
    bench.end();
}
