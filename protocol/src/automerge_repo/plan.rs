//! Plans which changes of a document a peer is sent, from its sync message and the document's
//! index. Pure: the plan names log offsets and never reads the log.
//!
//! If the relay has all of the peer's heads, the peer has exactly the ancestors of those heads: the
//! answer is exact, and Bloom filters are neither read nor made. Otherwise the peer has changes
//! that the relay lacks, with any ancestors, and its filters state the rest of its changes. A
//! filter errs in one of a hundred checks; the peer requests a change that an error hides by its
//! hash (`need`).
//!
//! Changes in a snapshot are sent as the whole snapshot, or not at all.

use automerge::sync::BloomFilter;

use super::index::{CompactedHistory, DocumentIndex};
use super::sync::{Have, SyncMessage};
use crate::compacted::PackedIndex;
use crate::heads::advance;
use crate::ids::{ChangeHash, Offset};

/// A peer's latest sync message about a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SyncRequest {
    /// Its heads.
    pub heads: Vec<ChangeHash>,
    /// Its `have`: last common heads, and filters over its later changes.
    pub have: Vec<Have>,
    /// The hashes that it requests.
    pub need: Vec<ChangeHash>,
    /// The relay has sent everything up to this offset to it, or received it from the peer.
    pub sent_through: Offset,
}

impl SyncRequest {
    /// From a message.
    pub fn of(message: SyncMessage<'_>, sent_through: Offset) -> Self {
        let SyncMessage { heads, have, need, .. } = message;
        Self { heads, have, need, sent_through }
    }
}

/// The plan needs the packed index of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsSnapshotHistory;

/// The planned answer.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Heads of the peer that the document does not have.
    pub unknown: Vec<ChangeHash>,
    /// The peer's last common heads are unknown here, so it must send everything that it has.
    pub lost: bool,
    /// Whether to send the snapshot, before the changes.
    pub snapshot: bool,
    /// Offsets of the changes to send, in this order.
    pub offsets: Vec<Offset>,
    /// For each row of the tail: the peer has it, or was sent it before.
    there: Vec<bool>,
    /// The certainly common heads, and a filter over the rest. `None` if the answer is exact.
    filtered: Option<Have>,
    /// The peer's missing changes are unknown: more may have to be sent after its next message.
    blind: bool,
}

/// The closing fields of an answer, once it is known how many of the planned changes it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Closing {
    /// The relay's `have`.
    pub have: Vec<Have>,
    /// Everything up to this offset is sent with this answer; 0 if that is unknown.
    pub sent_through: Offset,
    /// Nothing more is to be sent until the peer reports something new.
    pub complete: bool,
}

/// The hashes that the document has, ascending.
///
/// # Errors
/// If a hash must be looked up in the snapshot, and [`CompactedHistory::index`] is absent.
pub fn known(
    index: &DocumentIndex,
    hashes: &[ChangeHash],
) -> Result<Vec<ChangeHash>, NeedsSnapshotHistory> {
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
    /// Plans the answer to a sync message.
    ///
    /// # Errors
    /// If a hash must be looked up in the snapshot, and [`CompactedHistory::index`] is absent.
    pub fn of(index: &DocumentIndex, question: &SyncRequest) -> Result<Self, NeedsSnapshotHistory> {
        View::new(index).plan(question)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        !self.snapshot && self.offsets.is_empty()
    }

    /// Closes an answer that carries the first `sent` of [`Plan::offsets`], and the snapshot if the
    /// plan has it. `index` is the index that the plan was made from.
    pub fn close(&self, index: &DocumentIndex, sent: usize) -> Closing {
        let complete = sent == self.offsets.len() && !self.blind;
        let sent_through = match self.offsets.get(sent.wrapping_sub(1)) {
            _ if self.blind => Offset(0),
            _ if complete => index.last,
            Some(last) => *last,
            // Only the snapshot is sent.
            None => index.compacted.as_ref().map_or(Offset(0), |compacted| compacted.offset),
        };
        let have = match &self.filtered {
            _ if self.lost => vec![Have::default()],
            Some(have) => vec![have.clone()],
            None if complete => vec![Have::of(index.heads.clone())],
            None => vec![Have::of(self.frontier(index, sent_through))],
        };
        Closing { have, sent_through, complete }
    }

    /// The peer's heads once it has applied everything up to an offset.
    fn frontier(&self, index: &DocumentIndex, sent_through: Offset) -> Vec<ChangeHash> {
        let mut heads = match &index.compacted {
            Some(compacted) => compacted.heads.clone(),
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

/// An index with look-up by hash.
struct View<'a> {
    index: &'a DocumentIndex,
    /// The tail's rows, sorted by hash.
    by_hash: Vec<(ChangeHash, u32)>,
}

/// The changes that the peer certainly has.
struct PeerChanges {
    rows: Vec<bool>,
    /// All changes of the snapshot.
    compacted: bool,
    /// The hashes in the snapshot that the common heads depend on.
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

    fn is_compacted(&self, hash: &ChangeHash) -> Result<bool, NeedsSnapshotHistory> {
        match &self.index.compacted {
            None => Ok(false),
            Some(compacted) if compacted.heads.binary_search(hash).is_ok() => Ok(true),
            Some(compacted) => Ok(packed(compacted)?.contains(hash)),
        }
    }

    fn is_known(&self, hash: &ChangeHash) -> Result<bool, NeedsSnapshotHistory> {
        Ok(self.row(hash).is_some() || self.is_compacted(hash)?)
    }

    fn plan(&self, question: &SyncRequest) -> Result<Plan, NeedsSnapshotHistory> {
        // Split the peer's heads: a known head certainly gives the peer all of its ancestors.
        let (mut common, mut unknown) = (Vec::new(), Vec::new());
        for head in &question.heads {
            let known = self.is_known(head)?;
            if known { &mut common } else { &mut unknown }.push(*head);
        }
        let exact = unknown.is_empty();
        // The peer's last common heads are shared too. If one of them is not here, it is unknown which
        // changes the peer has.
        let lost = !exact && !self.add_last_sync(&question.have, &mut common)?;
        let says_nothing = question.have.is_empty() && question.sent_through == Offset(0);
        // Without `have` and without an earlier answer, any choice would be a guess.
        let blind = lost || (!exact && says_nothing);
        // Ancestors of the common heads are not sent unless requested, whatever the filters say.
        let held = self.held(&common);
        let rows = self.index.tail.len();
        let mut wanted = vec![false; rows];
        let mut snapshot = false;
        // The peer has exactly the ancestors of its heads: send the rest.
        if exact {
            wanted = held.rows.iter().map(|held| !held).collect();
            snapshot = !held.compacted;
        } else if !lost && !question.have.is_empty() {
            snapshot = self.add_by_filters(&question.have, &held, &mut wanted)?;
        } else if !lost && !blind {
            // The message has no `have`, but the relay has sent the peer everything up to
            // `sent_through`.
            wanted = held.rows.iter().map(|held| !held).collect();
            snapshot = !held.compacted;
        }
        // A requested change is sent again, even if it was sent or seems held: this corrects filter
        // errors.
        let mut forced = vec![false; rows];
        let mut force_snapshot = false;
        for hash in &question.need {
            match self.row(hash) {
                Some(row) => (wanted[row], forced[row]) = (true, true),
                None => force_snapshot |= self.is_compacted(hash)?,
            }
        }
        // Do not repeat earlier answers: they may still be on their way to the peer.
        let sent = question.sent_through;
        let compacted_sent =
            self.index.compacted.as_ref().is_some_and(|compacted| compacted.offset <= sent);
        let numbered = self.index.tail.iter().enumerate();
        let to_send = |(number, row): &(usize, &super::IndexRow)| {
            wanted[*number] && (row.offset > sent || forced[*number])
        };
        let offsets = numbered.filter(to_send).map(|(_, row)| row.offset).collect();
        // With unknown heads, the peer computes what the relay lacks from this filter.
        let filtered = match exact || lost {
            true => None,
            false => Some(self.filtered(&common, &held)?),
        };
        let there = held.rows.iter().zip(&self.index.tail);
        let there = there.map(|(held, row)| *held || row.offset <= sent).collect();
        let snapshot = force_snapshot || (snapshot && !compacted_sent);
        Ok(Plan { unknown, lost, snapshot, offsets, there, filtered, blind })
    }

    /// Adds the peer's last common heads. Returns false if the first `have` names an unknown hash.
    fn add_last_sync(
        &self,
        have: &[Have],
        common: &mut Vec<ChangeHash>,
    ) -> Result<bool, NeedsSnapshotHistory> {
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

    fn held(&self, common: &[ChangeHash]) -> PeerChanges {
        let tail = &self.index.tail;
        let mut rows = vec![false; tail.len()];
        let mut reached = Vec::new();
        let mut mark = |rows: &mut Vec<bool>, hash: &ChangeHash| match self.row(hash) {
            Some(row) => rows[row] = true,
            None => reached.push(*hash),
        };
        common.iter().for_each(|hash| mark(&mut rows, hash));
        // Dependencies precede their dependants in the tail, so one pass from the end reaches all
        // ancestors.
        for (number, row) in tail.iter().enumerate().rev() {
            if rows[number] {
                row.dependencies.iter().for_each(|hash| mark(&mut rows, hash));
            }
        }
        reached.sort_unstable();
        reached.dedup();
        let compacted = self.index.compacted.as_ref();
        let has = |head: &ChangeHash| reached.binary_search(head).is_ok();
        let compacted = compacted.is_none_or(|compacted| compacted.heads.iter().all(has));
        PeerChanges { rows, compacted, reached }
    }

    /// Adds the changes that no filter contains, and their dependants. Returns true if the snapshot
    /// holds one of them.
    fn add_by_filters(
        &self,
        have: &[Have],
        held: &PeerChanges,
        wanted: &mut [bool],
    ) -> Result<bool, NeedsSnapshotHistory> {
        let lacks = |hash: &ChangeHash| !have.iter().any(|have| have.filter.contains_hash(hash));
        let mut compacted = match self.missing_compacted(held)? {
            missing if missing.is_empty() => missing,
            missing => missing.into_iter().filter(lacks).collect(),
        };
        compacted.sort_unstable();
        for (number, row) in self.index.tail.iter().enumerate() {
            if held.rows[number] {
                continue;
            }
            let rests = |hash: &ChangeHash| match self.row(hash) {
                Some(row) => wanted[row],
                None => compacted.binary_search(hash).is_ok(),
            };
            // A change whose dependency is missing must be missing too, although a filter may claim
            // it.
            wanted[number] = row.dependencies.iter().any(rests) || lacks(&row.hash);
        }
        Ok(!compacted.is_empty())
    }

    /// The hashes in the snapshot that the peer does not certainly have.
    fn missing_compacted(
        &self,
        held: &PeerChanges,
    ) -> Result<Vec<ChangeHash>, NeedsSnapshotHistory> {
        match &self.index.compacted {
            Some(compacted) if !held.compacted => Ok(packed(compacted)?.missing(&held.reached)),
            _ => Ok(Vec::new()),
        }
    }

    /// The common heads, and a filter over the relay's changes beyond them.
    fn filtered(
        &self,
        common: &[ChangeHash],
        held: &PeerChanges,
    ) -> Result<Have, NeedsSnapshotHistory> {
        let mut beyond = self.missing_compacted(held)?;
        let rows = self.index.tail.iter().zip(&held.rows);
        beyond.extend(rows.filter(|(_, held)| !**held).map(|(row, _)| row.hash));
        let entries = u32::try_from(beyond.len()).unwrap_or(u32::MAX);
        let filter = BloomFilter::from_hashes(beyond.iter());
        Ok(Have { last_sync: common.to_vec(), filter, entries, bytes: 0 })
    }
}

fn packed(compacted: &CompactedHistory) -> Result<&PackedIndex, NeedsSnapshotHistory> {
    compacted.index.as_deref().ok_or(NeedsSnapshotHistory)
}
