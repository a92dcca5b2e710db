//! Time as an argument. Reads no clock.

use std::time::Duration;

/// A point in time, as the time since a start that the caller chose. The machines only compare
/// moments, so tests can step them freely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// The moment that is `wait` later.
    pub fn after(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(wait))
    }

    /// The time since `earlier`; zero if that is not before this moment.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
