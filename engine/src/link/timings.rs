//! The link's times as they are used: whatever the options are, no sum of them overflows and none makes
//! the link spin.

use std::time::Duration;

use landfall_protocol::Patience;

use crate::options::LinkOptions;

/// Longer times are cut to this, which never passes.
pub(super) const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The shortest wait.
const LEAST: Duration = Duration::from_millis(1);

/// The shortest wait before reconnecting: a relay that refuses is not asked a thousand times a second.
const LEAST_RECONNECT: Duration = Duration::from_millis(10);

/// The shortest wait of a link that is signed out.
const LEAST_SIGNED_OUT_RETRY: Duration = Duration::from_secs(1);

/// The shortest time between two scheduled comparisons.
const LEAST_CHECK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub(super) struct Timings {
    pub(super) patience: Patience,
    pub(super) reconnect_first: Duration,
    pub(super) reconnect_most: Duration,
    pub(super) signed_out_retry: Duration,
    pub(super) check_every: Duration,
}

impl Timings {
    pub(super) fn of(options: &LinkOptions) -> Self {
        let reconnect_most = options.reconnect_most.clamp(LEAST_RECONNECT, FAR);
        Self {
            patience: Patience {
                ping_after: options.ping_after.clamp(LEAST, FAR),
                drop_after: options.drop_after.clamp(LEAST, FAR),
                handshake: options.handshake.clamp(LEAST, FAR),
            },
            reconnect_first: options.reconnect_first.clamp(LEAST_RECONNECT, reconnect_most),
            reconnect_most,
            signed_out_retry: options.signed_out_retry.clamp(LEAST_SIGNED_OUT_RETRY, FAR),
            check_every: options.check_every.clamp(LEAST_CHECK, FAR),
        }
    }

    /// The wait before attempt number `attempt`, from 1; `jitter` is between 0 and 1.
    pub(super) fn backoff(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let most = self.reconnect_first.saturating_mul(1 << doublings).min(self.reconnect_most);
        jittered(most, jitter)
    }

    /// The wait before the next attempt of a link that is signed out.
    pub(super) fn signed_out(&self, jitter: f64) -> Duration {
        jittered(self.signed_out_retry, jitter)
    }
}

/// A wait between half and all of `most`.
fn jittered(most: Duration, jitter: f64) -> Duration {
    most.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_times_never_overflow_and_never_are_zero() {
        for time in [Duration::ZERO, Duration::MAX] {
            let options = LinkOptions {
                ping_after: time,
                drop_after: time,
                handshake: time,
                reconnect_first: time,
                reconnect_most: time,
                signed_out_retry: time,
                check_every: time,
                ..LinkOptions::new("ws://127.0.0.1:1")
            };
            let timings = Timings::of(&options);
            for attempt in [0, 1, 2, 40, u32::MAX] {
                let wait = timings.backoff(attempt, 1.0);
                assert!((LEAST_RECONNECT / 2..=FAR).contains(&wait), "{wait:?}");
            }
            let Patience { ping_after, drop_after, handshake } = timings.patience;
            let signed_out = timings.signed_out(0.0);
            assert!((LEAST_SIGNED_OUT_RETRY / 2..=FAR).contains(&signed_out), "{signed_out:?}");
            for time in [ping_after, drop_after, handshake, timings.check_every] {
                assert!((LEAST..=FAR).contains(&time), "{time:?}");
            }
        }
    }

    #[test]
    fn the_first_reconnect_wait_is_at_most_the_longest() {
        let mut options = LinkOptions::new("ws://127.0.0.1:1");
        options.reconnect_first = Duration::MAX;
        options.reconnect_most = Duration::from_secs(2);
        assert_eq!(Timings::of(&options).backoff(1, 1.0), Duration::from_secs(2));
    }
}
