//! A counter with a total limit and a limit per address. It must not know what it counts.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::memory::ShareKey;

/// A quota. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    shared: Arc<QuotaState>,
}

#[derive(Debug)]
struct QuotaState {
    all: usize,
    of_share: usize,
    taken: Mutex<QuotaUse>,
}

#[derive(Debug, Default)]
struct QuotaUse {
    all: usize,
    /// Entries with a count of zero are removed.
    shares: HashMap<ShareKey, usize>,
}

/// One unit, held until it is dropped.
#[derive(Debug)]
pub(crate) struct One {
    shared: Arc<QuotaState>,
    share: ShareKey,
}

/// The quota is used up; the limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoneLeft(pub(crate) usize);

impl Quota {
    /// `all` units in total, `of_share` per share.
    pub(crate) fn new(all: usize, of_share: usize) -> Self {
        Self { shared: Arc::new(QuotaState { all, of_share, taken: Mutex::default() }) }
    }

    /// Takes one unit.
    pub(crate) fn take(&self, share: ShareKey) -> Result<One, NoneLeft> {
        let mut taken = self.shared.taken.lock();
        let of = taken.shares.get(&share).copied().unwrap_or(0);
        if of >= self.shared.of_share {
            return Err(NoneLeft(self.shared.of_share));
        }
        if taken.all >= self.shared.all {
            return Err(NoneLeft(self.shared.all));
        }
        taken.all += 1;
        taken.shares.insert(share, of + 1);
        Ok(One { shared: Arc::clone(&self.shared), share })
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock();
        taken.all -= 1;
        if let Some(of) = taken.shares.get_mut(&self.share) {
            *of -= 1;
            if *of == 0 {
                taken.shares.remove(&self.share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_share_cannot_take_the_whole_quota() {
        let quota = Quota::new(3, 2);
        let [one, other, third] = [1, 2, 3].map(ShareKey::Session);
        let taken = [quota.take(one).unwrap(), quota.take(one).unwrap()];
        assert_eq!(quota.take(one).unwrap_err(), NoneLeft(2));
        let last = quota.take(other).unwrap();
        assert_eq!(quota.take(third).unwrap_err(), NoneLeft(3));
        drop(last);
        let _third = quota.take(third).unwrap();
        drop(taken);
        let _again = [quota.take(one).unwrap(), quota.take(one).unwrap()];
        let known: Vec<_> = quota.shared.taken.lock().shares.keys().copied().collect();
        assert_eq!((known.len(), known.contains(&other)), (2, false));
    }
}
