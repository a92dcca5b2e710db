//! A child that cannot be started: the error is not about the upload.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_child_an_upload_is_answered_with_retry_later() {
    let mut bench = Bench::new("/nonexistent/worker".into()).await;
    let refusal = bench.chunks(vec![1, 2, 3]).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::OVERLOADED, NackClass::RETRY_AFTER));
    assert!(refusal.retry_after_ms > 0, "{refusal:?}");
    assert!(refusal.what.contains("could not be started"), "{refusal:?}");
    // Neither is that of a child that is stopped.
    bench.compactor.end_jobs();
    let refusal = bench.chunks(vec![1, 2, 3]).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::OVERLOADED, NackClass::RETRY_AFTER));
    bench.end();
}
