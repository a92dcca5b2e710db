//! Incoming messages: their memory, and the items made of them on their way to the hub. Items split their
//! memory off the message's, part by part. A session hands over one item at a time, and a bounded number of
//! them may be unanswered by the hub.
//!
//! It must not know what a message contains, nor who answers it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use landfall_protocol::limits as shared;
use landfall_protocol::relay::DocumentPlan;
use tokio::time::timeout;

use crate::checks::Checker;
use crate::limits;
use crate::memory::{Account, Class, Grant};

/// Bytes in memory of a push with `bytes` bytes of changes, until it is answered.
pub(crate) fn weight(bytes: usize) -> usize {
    limits::PUSH_TIMES * bytes + limits::PUSH_OVERHEAD_BYTES
}

/// The memory of a message with parts still to be handled, and since when it is held. A small message has
/// none.
#[derive(Default)]
pub(crate) struct MessageMemory(Option<(Grant, Instant)>);

impl MessageMemory {
    /// The memory that was reserved before the message was read.
    pub(crate) fn new(grant: Option<Grant>) -> Self {
        Self(grant.map(|grant| (grant, Instant::now())))
    }

    /// Since when memory is held; `None` without memory.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, since)| *since)
    }

    /// The memory of a push with `bytes` bytes of changes.
    pub(crate) fn of_push(&mut self, bytes: usize) -> Reservation {
        self.split(Class::Push, weight(bytes))
    }

    /// The memory of a whole document of `bytes` bytes.
    pub(crate) fn of_upload(&mut self, bytes: usize) -> Reservation {
        self.split(Class::Upload, bytes + limits::PUSH_OVERHEAD_BYTES)
    }

    /// Memory for the merge of a whole document of `bytes` bytes, beside its own: twice as many, or what
    /// the message has left. `None` if the message was small.
    pub(crate) fn of_merge(&mut self, bytes: usize) -> Option<Grant> {
        self.0.as_mut().map(|(message, _)| message.split(Class::Push, 2 * bytes))
    }

    /// The memory of a query of `bytes` bytes until it is answered. It counts as intake, since a task
    /// that waits for answer memory must not hold any. `None` if the message was small.
    pub(crate) fn of_query(&mut self, bytes: usize) -> Option<Grant> {
        self.0.as_mut().map(|(message, _)| message.split(Class::Incoming, bytes))
    }

    fn split(&mut self, class: Class, bytes: usize) -> Reservation {
        match &mut self.0 {
            Some((message, since)) => Reservation::Held(message.split(class, bytes), *since),
            None => Reservation::Later(class, bytes),
        }
    }
}

/// The memory of an item made of a message.
pub(crate) enum Reservation {
    /// Split off the message's memory, which has been held since then.
    Held(Grant, Instant),
    /// To be reserved at the item's turn, while holding nothing: its message was small.
    Later(Class, usize),
}

impl Reservation {
    /// Since when it is held.
    pub(crate) fn since(&self) -> Option<Instant> {
        match self {
            Self::Held(_, since) => Some(*since),
            Self::Later(..) => None,
        }
    }

    /// Bytes that are not reserved yet.
    pub(crate) fn unreserved(&self) -> usize {
        match self {
            Self::Held(..) => 0,
            Self::Later(_, bytes) => *bytes,
        }
    }

    /// Waits for the memory, if it is not reserved yet.
    pub(crate) async fn grant(self, account: &Account) -> Grant {
        match self {
            Self::Held(grant, _) => grant,
            Self::Later(class, bytes) => account.reserve(class, bytes).await,
        }
    }
}

/// Waits for the memory of a merge's result: of the uploaded and the `stored` bytes of the document, from
/// the child's answer until the commit. `None` if there was none in time: the waiting task holds the
/// upload, whose memory others may need. `has`: the part that was split off the message.
pub(crate) async fn reserve_merge(
    account: &Account,
    has: Option<Grant>,
    brought: usize,
    stored: usize,
) -> Option<Grant> {
    let needs = (brought + stored).min(shared::SNAPSHOT_BYTES) + limits::PUSH_OVERHEAD_BYTES;
    if has.as_ref().is_some_and(|has| has.bytes() >= needs) {
        return has;
    }
    // Release it before waiting: both together may exceed an account's cap, whereas the largest reservation
    // of an account that holds nothing can always be granted.
    drop(has);
    timeout(limits::UPLOAD_WAIT, account.reserve(Class::Push, needs)).await.ok()
}

/// Approximate bytes of a document as a merge reads it; single changes are estimated.
pub(crate) fn stored_bytes(plan: &DocumentPlan) -> usize {
    let snapshot = plan.snapshot.map_or(0, |(_, total, _)| total as usize);
    snapshot + limits::MERGED_CHANGE_BYTES * plan.offsets.len()
}

/// Waits until a session has paid for its checks. If it holds memory `since` that moment, it stops waiting
/// when others need the memory: the error is the remaining time.
pub(crate) async fn paid(
    checker: &Checker,
    account: &Account,
    since: Option<Instant>,
) -> Result<(), Duration> {
    loop {
        let wait = checker.debt();
        if wait.is_zero() {
            return Ok(());
        }
        let is_long = since.is_some_and(|since| since.elapsed() >= limits::LARGE_LOOK);
        if is_long && account.is_wanted() {
            return Err(wait);
        }
        tokio::time::sleep(wait.min(limits::DEBT_LOOK)).await;
    }
}

type Work<D> = Pin<Box<dyn Future<Output = D> + Send>>;

/// Runs one piece of work at a time, and counts the pushes that the hub has not answered.
pub(crate) struct InFlight<D> {
    doing: Option<Work<D>>,
    unanswered: usize,
    most: usize,
}

impl<D> InFlight<D> {
    /// At most `most` unanswered.
    pub(crate) fn new(most: usize) -> Self {
        Self { doing: None, unanswered: 0, most }
    }

    /// Whether work may be started.
    pub(crate) fn is_free(&self) -> bool {
        self.doing.is_none() && self.unanswered < self.most
    }

    /// Starts work; only when it is free. `is_answered`: the hub will answer it.
    pub(crate) fn start(
        &mut self,
        is_answered: bool,
        work: impl Future<Output = D> + Send + 'static,
    ) {
        self.unanswered += usize::from(is_answered);
        self.doing = Some(Box::pin(work));
    }

    /// The hub answered one.
    pub(crate) fn handle_answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether no work is in progress, and the hub has answered everything.
    pub(crate) fn is_settled(&self) -> bool {
        self.doing.is_none() && self.unanswered == 0
    }

    /// Waits until the current work is done; pends forever if there is none.
    pub(crate) async fn done(&mut self) -> D {
        let done = std::future::poll_fn(|cx: &mut Context<'_>| match &mut self.doing {
            Some(doing) => doing.as_mut().poll(cx),
            None => Poll::Pending,
        })
        .await;
        self.doing = None;
        done
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use landfall_protocol::admission::Work;

    use super::*;
    use crate::checks::Checks;
    use crate::memory::{Key, Memory, ShareKey};

    /// A checker whose debt takes an hour to pay.
    async fn in_debt(checks: &Checks) -> Checker {
        let checker = checks.of_session(Key { share: ShareKey::Relay, account: 1 });
        let heavy = |_: &mut (), work: &mut Work| work.operations = 3_600 * limits::CHECK_RATE;
        let light = |_: &mut (), _: Work, _: &mut Work| None;
        checker.check((), light, heavy).await.unwrap();
        checker
    }

    #[tokio::test]
    async fn memory_that_others_need_is_not_held_for_a_debt() {
        let (memory, checks) = (Memory::new(0), Checks::new(1));
        let checker = in_debt(&checks).await;
        let [holds, other] = [1, 2].map(|share| memory.account(ShareKey::Session(share)));
        let grant = holds.take(Class::Incoming, memory.limit());
        let mut message = MessageMemory::new(Some(grant));
        let long_ago = Instant::now().checked_sub(limits::LARGE_LOOK).expect("the machine is up");
        let old = |reservation: &Reservation| reservation.since().map(|_| long_ago);
        let reservation = message.of_push(1_000);
        let mut cx = Context::from_waker(Waker::noop());
        // No other session needs the memory, or it has just been reserved: it waits.
        assert!(pin!(paid(&checker, &holds, old(&reservation))).poll(&mut cx).is_pending());
        let mut waits = pin!(other.reserve(Class::Incoming, 1 << 20));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        assert!(pin!(paid(&checker, &holds, reservation.since())).poll(&mut cx).is_pending());
        let outcome = tokio::time::timeout(
            Duration::from_secs(20),
            paid(&checker, &holds, old(&reservation)),
        );
        let Ok(Err(wait)) = outcome.await else { panic!("it waits while it holds the memory") };
        assert!(wait > Duration::from_secs(3_000));
        // Without memory it waits without a time limit.
        let reservation = MessageMemory::default().of_push(1_000);
        assert!(pin!(paid(&checker, &holds, old(&reservation))).poll(&mut cx).is_pending());
        assert_eq!(memory.used(Class::Push), 3_256, "it reserved more memory than the push's");
    }
}
