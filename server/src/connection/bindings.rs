//! The ids that clients give themselves, each bound to the principal that uses it: while one of its sessions
//! lives, no other principal may use the id, so that none can pass as another's replica.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use landfall_protocol::access::Subject;
use parking_lot::Mutex;

/// The ids in use, each with its principal and the number of its sessions.
type Uses<K> = HashMap<K, (Option<Subject>, usize)>;

/// The bindings of one kind of id. Clones share them. Bounded by the number of sessions.
#[derive(Debug)]
pub(crate) struct Bindings<K> {
    uses: Arc<Mutex<Uses<K>>>,
}

impl<K> Clone for Bindings<K> {
    fn clone(&self) -> Self {
        Self { uses: Arc::clone(&self.uses) }
    }
}

impl<K> Default for Bindings<K> {
    fn default() -> Self {
        Self { uses: Arc::default() }
    }
}

/// One session's use of an id, until it is dropped.
#[derive(Debug)]
pub(crate) struct Binding<K: Eq + Hash> {
    uses: Arc<Mutex<Uses<K>>>,
    id: K,
}

/// Another principal uses the id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InUse;

impl<K: Eq + Hash + Clone> Bindings<K> {
    /// Whether a principal may use an id: no other one does.
    pub(crate) fn may_use(&self, id: &K, subject: Option<&Subject>) -> bool {
        self.uses.lock().get(id).is_none_or(|(bound, _)| bound.as_ref() == subject)
    }

    /// Binds an id to a principal, `None` in open mode.
    pub(crate) fn bind(&self, id: K, subject: Option<&Subject>) -> Result<Binding<K>, InUse> {
        let mut uses = self.uses.lock();
        let (bound, sessions) = uses.entry(id.clone()).or_insert_with(|| (subject.cloned(), 0));
        if bound.as_ref() != subject {
            return Err(InUse);
        }
        *sessions += 1;
        drop(uses);
        Ok(Binding { uses: Arc::clone(&self.uses), id })
    }
}

impl<K: Eq + Hash> Drop for Binding<K> {
    fn drop(&mut self) {
        let mut uses = self.uses.lock();
        if let Some((_, sessions)) = uses.get_mut(&self.id) {
            *sessions -= 1;
            if *sessions == 0 {
                uses.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_belongs_to_one_principal_while_any_of_its_sessions_lives() {
        let bindings = Bindings::default();
        let (alice, bob) = (Subject::new("alice"), Subject::new("bob"));
        let first = bindings.bind(1, Some(&alice)).unwrap();
        let second = bindings.bind(1, Some(&alice)).unwrap();
        assert_eq!(bindings.bind(1, Some(&bob)).unwrap_err(), InUse);
        assert_eq!(bindings.bind(1, None).unwrap_err(), InUse);
        assert!(bindings.may_use(&1, Some(&alice)) && !bindings.may_use(&1, Some(&bob)));
        assert!(bindings.may_use(&2, Some(&bob)));
        drop(first);
        assert_eq!(bindings.bind(1, Some(&bob)).unwrap_err(), InUse);
        drop(second);
        assert!(bindings.uses.lock().is_empty());
        let _third = bindings.bind(1, Some(&bob)).unwrap();
    }
}
