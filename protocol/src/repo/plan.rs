//! What a peer is to be sent of a document, by its sync message and the document's index. Pure.
//!
//! If the relay holds all of the peer's heads, the peer has what rests under them and nothing
//! else: the answer is exact, and no filter is looked at or made. Otherwise the peer has changes
//! that the relay lacks, which may rest on anything, and its filters say what else it has. They
//! err in one of a hundred checks: what is hidden by that is asked for by its hash (`need`).
//!
//! What is folded is sent as the snapshot that stands for it, or not at all.

use automerge::sync::BloomFilter;

use super::index::{DocumentIndex, FoldedHistory};
use super::sync::{Have, SyncMessage};
use crate::folded::PackedIndex;
use crate::heads::advance;
use crate::ids::{ChangeHash, Offset};

/// What a peer said last about a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// Its heads.
    pub heads: Vec<ChangeHash>,
    /// What it has.
    pub have: Vec<Have>,
    /// What it asks for.
    pub need: Vec<ChangeHash>,
    /// Everything up to this offset was sent to it already, or is its own.
    pub sent_through: Offset,
}

impl Question {
    /// Of a message.
    pub fn of(message: SyncMessage<'_>, sent_through: Offset) -> Self {
        let SyncMessage { heads, have, need, .. } = message;
        Self { heads, have, need, sent_through }
    }
}

/// The question cannot be answered without the packed index of what is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsFolded;

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Heads of the peer that the document does not have.
    pub unknown: Vec<ChangeHash>,
    /// The peer believes that both had something in common which is not here: it must tell all.
    pub lost: bool,
    /// Whether the snapshot is to be sent, before the changes.
    pub snapshot: bool,
    /// Changes to be sent, in this order.
    pub offsets: Vec<Offset>,
    /// For each row: the peer has it, or was sent it before.
    there: Vec<bool>,
    /// What is common for certain, and a filter over the rest. `None` if the answer is exact.
    filtered: Option<Have>,
    /// What the peer lacks is not known: more than this may have to be sent once it has told.
    blind: bool,
}

/// What closes an answer, once it is known how many of the planned changes it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Closing {
    /// What the relay has.
    pub have: Vec<Have>,
    /// Everything up to this offset is sent with this answer; 0 if that is not known.
    pub sent_through: Offset,
    /// There is nothing more to send before the peer says something new.
    pub complete: bool,
}

/// Those of some changes that a document has, ascending.
///
/// # Errors
/// If what is folded must be known one by one, and [`FoldedHistory::index`] is not there.
pub fn known(index: &DocumentIndex, hashes: &[ChangeHash]) -> Result<Vec<ChangeHash>, NeedsFolded> {
    let view = View::new(index);
    let mut known = Vec::new();
    for hash in hashes {
        if view.is_known(hash)? {
            known.push(*hash);
        }
    }
    known.sort_unstable();
    Ok(known)
}

impl Plan {
    /// Plans the answer to a question.
    ///
    /// # Errors
    /// If what is folded must be known one by one, and [`FoldedHistory::index`] is not there.
    pub fn of(index: &DocumentIndex, question: &Question) -> Result<Self, NeedsFolded> {
        View::new(index).plan(question)
    }

    /// Whether there is anything to send.
    pub fn is_empty(&self) -> bool {
        !self.snapshot && self.offsets.is_empty()
    }

    /// Closes an answer that carries the first `sent` of [`Plan::offsets`], and the snapshot if it
    /// is to be sent. `index` is the one that the plan was made of.
    pub fn close(&self, index: &DocumentIndex, sent: usize) -> Closing {
        let complete = sent == self.offsets.len() && !self.blind;
        let sent_through = match self.offsets.get(sent.wrapping_sub(1)) {
            _ if self.blind => Offset(0),
            _ if complete => index.last,
            Some(last) => *last,
            // The snapshot alone.
            None => index.folded.as_ref().map_or(Offset(0), |folded| folded.offset),
        };
        let have = match &self.filtered {
            _ if self.lost => vec![Have::default()],
            Some(have) => vec![have.clone()],
            None if complete => vec![Have::of(index.heads.clone())],
            None => vec![Have::of(self.frontier(index, sent_through))],
        };
        Closing { have, sent_through, complete }
    }

    /// The heads of what the peer has once it has taken everything up to an offset.
    fn frontier(&self, index: &DocumentIndex, sent_through: Offset) -> Vec<ChangeHash> {
        let mut heads = match &index.folded {
            Some(folded) => folded.heads.clone(),
            None => Vec::new(),
        };
        for (row, there) in index.tail.iter().zip(&self.there) {
            if *there || row.offset <= sent_through {
                advance(&mut heads, row.dependencies.iter().copied(), row.hash);
            }
        }
        heads
    }
}

/// An index that can be asked by hash.
struct View<'a> {
    index: &'a DocumentIndex,
    /// The tail's rows, ascending by hash.
    by_hash: Vec<(ChangeHash, u32)>,
}

/// What the peer has for certain.
struct Held {
    rows: Vec<bool>,
    /// Everything that is folded.
    folded: bool,
    /// What it reaches of what is folded.
    reached: Vec<ChangeHash>,
}

impl<'a> View<'a> {
    fn new(index: &'a DocumentIndex) -> Self {
        let mut by_hash: Vec<_> =
            index.tail.iter().zip(0..).map(|(row, number)| (row.hash, number)).collect();
        by_hash.sort_unstable();
        Self { index, by_hash }
    }

    fn row(&self, hash: &ChangeHash) -> Option<usize> {
        let found = self.by_hash.binary_search_by_key(hash, |(hash, _)| *hash);
        found.ok().map(|at| self.by_hash[at].1 as usize)
    }

    fn is_folded(&self, hash: &ChangeHash) -> Result<bool, NeedsFolded> {
        match &self.index.folded {
            None => Ok(false),
            Some(folded) if folded.heads.binary_search(hash).is_ok() => Ok(true),
            Some(folded) => Ok(packed(folded)?.contains(hash)),
        }
    }

    fn is_known(&self, hash: &ChangeHash) -> Result<bool, NeedsFolded> {
        Ok(self.row(hash).is_some() || self.is_folded(hash)?)
    }

    fn plan(&self, question: &Question) -> Result<Plan, NeedsFolded> {
        let (mut common, mut unknown) = (Vec::new(), Vec::new());
        for head in &question.heads {
            let known = self.is_known(head)?;
            if known { &mut common } else { &mut unknown }.push(*head);
        }
        let exact = unknown.is_empty();
        let lost = !exact && !self.add_last_sync(&question.have, &mut common)?;
        let says_nothing = question.have.is_empty() && question.sent_through == Offset(0);
        let blind = lost || (!exact && says_nothing);
        let held = self.held(&common);
        let rows = self.index.tail.len();
        let mut wanted = vec![false; rows];
        let mut snapshot = false;
        if exact {
            wanted = held.rows.iter().map(|held| !held).collect();
            snapshot = !held.folded;
        } else if !lost && !question.have.is_empty() {
            snapshot = self.add_by_filters(&question.have, &held, &mut wanted)?;
        } else if !lost && !blind {
            // It says nothing of what it has, but it was sent what there was then.
            wanted = held.rows.iter().map(|held| !held).collect();
            snapshot = !held.folded;
        }
        let mut forced = vec![false; rows];
        let mut force_snapshot = false;
        for hash in &question.need {
            match self.row(hash) {
                Some(row) => (wanted[row], forced[row]) = (true, true),
                None => force_snapshot |= self.is_folded(hash)?,
            }
        }
        let sent = question.sent_through;
        let folded_sent = self.index.folded.as_ref().is_some_and(|folded| folded.offset <= sent);
        let numbered = self.index.tail.iter().enumerate();
        let to_send = |(number, row): &(usize, &super::IndexRow)| {
            wanted[*number] && (row.offset > sent || forced[*number])
        };
        let offsets = numbered.filter(to_send).map(|(_, row)| row.offset).collect();
        let filtered = match exact || lost {
            true => None,
            false => Some(self.filtered(&common, &held)?),
        };
        let there = held.rows.iter().zip(&self.index.tail);
        let there = there.map(|(held, row)| *held || row.offset <= sent).collect();
        let snapshot = force_snapshot || (snapshot && !folded_sent);
        Ok(Plan { unknown, lost, snapshot, offsets, there, filtered, blind })
    }

    /// Adds what the peer says that both had; false if the first `have` names something unknown.
    fn add_last_sync(
        &self,
        have: &[Have],
        common: &mut Vec<ChangeHash>,
    ) -> Result<bool, NeedsFolded> {
        let mut all_known = true;
        for (number, have) in have.iter().enumerate() {
            for hash in &have.last_sync {
                match self.is_known(hash)? {
                    true => common.push(*hash),
                    false => all_known &= number > 0,
                }
            }
        }
        common.sort_unstable();
        common.dedup();
        Ok(all_known)
    }

    fn held(&self, common: &[ChangeHash]) -> Held {
        let tail = &self.index.tail;
        let mut rows = vec![false; tail.len()];
        let mut reached = Vec::new();
        let mut mark = |rows: &mut Vec<bool>, hash: &ChangeHash| match self.row(hash) {
            Some(row) => rows[row] = true,
            None => reached.push(*hash),
        };
        common.iter().for_each(|hash| mark(&mut rows, hash));
        // Whatever rests on a change stands behind it, so one pass from the end reaches all.
        for (number, row) in tail.iter().enumerate().rev() {
            if rows[number] {
                row.dependencies.iter().for_each(|hash| mark(&mut rows, hash));
            }
        }
        reached.sort_unstable();
        reached.dedup();
        let folded = self.index.folded.as_ref();
        let has = |head: &ChangeHash| reached.binary_search(head).is_ok();
        let folded = folded.is_none_or(|folded| folded.heads.iter().all(has));
        Held { rows, folded, reached }
    }

    /// Adds what no filter holds, and what rests on it; true if that reaches into what is folded.
    fn add_by_filters(
        &self,
        have: &[Have],
        held: &Held,
        wanted: &mut [bool],
    ) -> Result<bool, NeedsFolded> {
        let lacks = |hash: &ChangeHash| !have.iter().any(|have| have.filter.contains_hash(hash));
        let mut folded = match self.missing_folded(held)? {
            missing if missing.is_empty() => missing,
            missing => missing.into_iter().filter(lacks).collect(),
        };
        folded.sort_unstable();
        for (number, row) in self.index.tail.iter().enumerate() {
            if held.rows[number] {
                continue;
            }
            let rests = |hash: &ChangeHash| match self.row(hash) {
                Some(row) => wanted[row],
                None => folded.binary_search(hash).is_ok(),
            };
            wanted[number] = row.dependencies.iter().any(rests) || lacks(&row.hash);
        }
        Ok(!folded.is_empty())
    }

    /// The folded changes that are not held for certain.
    fn missing_folded(&self, held: &Held) -> Result<Vec<ChangeHash>, NeedsFolded> {
        match &self.index.folded {
            Some(folded) if !held.folded => Ok(packed(folded)?.missing(&held.reached)),
            _ => Ok(Vec::new()),
        }
    }

    /// What is common, and a filter over what the relay has beyond it.
    fn filtered(&self, common: &[ChangeHash], held: &Held) -> Result<Have, NeedsFolded> {
        let mut beyond = self.missing_folded(held)?;
        let rows = self.index.tail.iter().zip(&held.rows);
        beyond.extend(rows.filter(|(_, held)| !**held).map(|(row, _)| row.hash));
        let entries = u32::try_from(beyond.len()).unwrap_or(u32::MAX);
        let filter = BloomFilter::from_hashes(beyond.iter());
        Ok(Have { last_sync: common.to_vec(), filter, entries, bytes: 0 })
    }
}

fn packed(folded: &FoldedHistory) -> Result<&PackedIndex, NeedsFolded> {
    folded.index.as_deref().ok_or(NeedsFolded)
}
