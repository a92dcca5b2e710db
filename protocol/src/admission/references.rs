//! The actors that a change's operations refer to.

use super::form::FormError;
use crate::ids::ActorId;

/// A change's actors by index: the author is 0, the others follow.
#[derive(Debug)]
pub(super) struct Actors<'a> {
    author: &'a ActorId,
    others: &'a [ActorId],
    /// Which of the others have been referred to.
    used: Vec<bool>,
}

impl<'a> Actors<'a> {
    pub(super) fn new(author: &'a ActorId, others: &'a [ActorId]) -> Self {
        Self { author, others, used: vec![false; others.len()] }
    }

    /// Records a reference and returns the actor's rank among all of the change's actors. `others`
    /// ascends without the author, so the author's rank is its insertion point.
    pub(super) fn refer(&mut self, column: &'static str, index: u64) -> Result<usize, FormError> {
        let actors = self.others.len() + 1;
        let known = usize::try_from(index).ok().filter(|&index| index < actors);
        let position = known.ok_or(FormError::ActorIndex { column, index, actors })?;
        let Some(other) = position.checked_sub(1) else {
            return Ok(2 * self.others.partition_point(|actor| actor < self.author));
        };
        if let Some(used) = self.used.get_mut(other) {
            *used = true;
        }
        Ok(2 * other + 1)
    }

    /// Rejects actors without a reference.
    pub(super) fn finish(&self) -> Result<(), FormError> {
        match self.used.iter().position(|used| !used) {
            Some(index) => Err(FormError::UnusedActor { index }),
            None => Ok(()),
        }
    }
}
