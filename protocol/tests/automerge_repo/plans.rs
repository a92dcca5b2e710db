//! The plan of an answer against a reference of plain sets, and against automerge.

use std::collections::BTreeSet;
use std::sync::Arc;

use automerge::sync::{BloomFilter, State, SyncDoc};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{Automerge, Change, ROOT};
use landfall_protocol::automerge_repo::plan::{NeedsSnapshotHistory, Plan, SyncRequest, known};
use landfall_protocol::automerge_repo::sync::{Have, SyncMessage};
use landfall_protocol::automerge_repo::{CompactedHistory, DocumentIndex, IndexRow};
use landfall_protocol::compacted::{CompactedChange, PackedIndex};
use landfall_protocol::{ActorId, ChangeHash, Offset};
use proptest::prelude::*;

use landfall_test_rng::Rng;

type Set = BTreeSet<ChangeHash>;

/// A graph of changes in log order.
struct Graph {
    rows: Vec<IndexRow>,
    /// The number of compacted changes, the first ones.
    compacted: usize,
}

impl Graph {
    fn random(rng: &mut Rng) -> Self {
        let count = 1 + rng.below(40);
        let mut rows: Vec<IndexRow> = Vec::new();
        let mut offset = rng.next_u64() % 5;
        for number in 0..count {
            offset += 1 + rng.next_u64() % 3;
            let mut dependencies = Set::new();
            for _ in 0..rng.below(4).min(number) {
                // Mostly the latest changes, as with concurrent editing.
                let back = 1 + rng.below(number.min(4));
                dependencies.insert(rows[number - back].hash);
            }
            let dependencies = dependencies.into_iter().collect();
            let hash = ChangeHash(rng.bytes());
            rows.push(IndexRow { offset: Offset(offset), hash, dependencies });
        }
        let compacted = if rng.chance(50) { rng.below(count + 1) } else { 0 };
        Self { rows, compacted }
    }

    fn ancestors(&self, of: &Set) -> Set {
        let mut found = of.clone();
        for row in self.rows.iter().rev() {
            if found.contains(&row.hash) {
                found.extend(&row.dependencies);
            }
        }
        found.retain(|hash| self.rows.iter().any(|row| row.hash == *hash));
        found
    }

    fn all(&self) -> Set {
        self.rows.iter().map(|row| row.hash).collect()
    }

    fn heads_of(&self, set: &Set) -> Vec<ChangeHash> {
        let rows = self.rows.iter().filter(|row| set.contains(&row.hash));
        let rested: Set = rows.flat_map(|row| row.dependencies.clone()).collect();
        set.difference(&rested).copied().collect()
    }

    /// A random part of it, with all ancestors.
    fn part(&self, rng: &mut Rng, of: &Set) -> Set {
        let all: Vec<ChangeHash> = of.iter().copied().collect();
        let count = rng.below(4).min(all.len());
        let some = (0..count).map(|_| all[rng.below(all.len())]).collect();
        self.ancestors(&some)
    }

    fn index(&self, with_compacted: bool) -> DocumentIndex {
        let (compacted, tail) = self.rows.split_at(self.compacted);
        let changes: Vec<CompactedChange> = compacted
            .iter()
            .map(|row| CompactedChange {
                hash: row.hash,
                actor: ActorId::from(&row.hash.0[..16]),
                seq: 1,
                max_op: 1 + row.offset.0,
                dependencies: row.dependencies.clone(),
            })
            .collect();
        let compacted = compacted.last().map(|last| {
            let index = PackedIndex::parse(PackedIndex::pack(&changes).unwrap()).unwrap();
            let (heads, offset) = (index.heads(), last.offset);
            let index = with_compacted.then(|| Arc::new(index));
            CompactedHistory { hash: [0; 32], bytes: 1, offset, heads, index }
        });
        let last = self.rows.last().map_or(Offset(0), |row| row.offset);
        DocumentIndex { heads: self.heads_of(&self.all()), last, compacted, tail: tail.to_vec() }
    }

    fn compacted_set(&self) -> Set {
        self.rows[..self.compacted].iter().map(|row| row.hash).collect()
    }

    fn hashes(&self, offsets: &[Offset]) -> Set {
        let at = |offset: &Offset| self.rows.iter().find(|row| row.offset == *offset).unwrap();
        offsets.iter().map(|offset| at(offset).hash).collect()
    }
}

/// A peer with a part of a graph, and its query.
struct Case {
    graph: Graph,
    has: Set,
    common: Set,
    question: SyncRequest,
}

fn case(seed: u64, strangers: bool) -> (Case, Rng) {
    let mut rng = Rng::new(seed);
    let graph = Graph::random(&mut rng);
    let has = graph.part(&mut rng, &graph.all());
    let common = graph.part(&mut rng, &has);
    let mut heads = graph.heads_of(&has);
    let mut held: Vec<ChangeHash> = has.difference(&common).copied().collect();
    if strangers {
        let stranger = |_| ChangeHash(rng.bytes());
        let own: Vec<ChangeHash> = (0..3).map(stranger).collect();
        // The peer's own changes depend on some of the heads that it had.
        heads.retain(|_| rng.chance(50));
        heads.push(own[2]);
        heads.sort_unstable();
        held.extend(own);
    }
    let filter = BloomFilter::from_hashes(held.iter());
    let last_sync = graph.heads_of(&common);
    let have = vec![Have { last_sync, filter, entries: held.len() as u32, bytes: 0 }];
    let question = SyncRequest { heads, have, need: Vec::new(), sent_through: Offset(0) };
    (Case { graph, has, common, question }, rng)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// A peer with only known heads gets exactly the changes that it lacks.
    #[test]
    fn an_exact_answer_has_the_missing_changes_only(seed: u64) {
        let (Case { graph, has, question, .. }, _) = case(seed, false);
        let index = graph.index(true);
        let plan = Plan::of(&index, &question).unwrap();
        prop_assert!(plan.unknown.is_empty() && !plan.lost);
        let compacted = graph.compacted_set();
        let lacks: Set = graph.all().difference(&has).copied().collect();
        prop_assert_eq!(plan.snapshot, lacks.intersection(&compacted).next().is_some());
        let tail: Set = lacks.difference(&compacted).copied().collect();
        prop_assert_eq!(graph.hashes(&plan.offsets), tail);
        prop_assert!(plan.offsets.is_sorted());
        let closing = plan.close(&index, plan.offsets.len());
        prop_assert!(closing.complete);
        prop_assert_eq!(closing.sent_through, index.last);
        prop_assert_eq!(closing.have, vec![Have::of(index.heads.clone())]);
    }

    /// Each page announces what the peer has after it, and the pages together are complete.
    #[test]
    fn every_page_is_complete_in_itself(seed: u64, size in 1usize..6) {
        let (Case { graph, mut has, mut question, .. }, _) = case(seed, false);
        let index = graph.index(true);
        for page in 0.. {
            prop_assert!(page <= graph.rows.len(), "it ends");
            let plan = Plan::of(&index, &question).unwrap();
            let sent = plan.offsets.len().min(size);
            if plan.snapshot {
                has.extend(graph.compacted_set());
            }
            let before = has.len();
            has.extend(graph.hashes(&plan.offsets[..sent]));
            prop_assert_eq!(has.len(), before + sent, "nothing is sent twice");
            let closing = plan.close(&index, sent);
            prop_assert_eq!(&closing.have, &vec![Have::of(graph.heads_of(&has))]);
            prop_assert_eq!(&graph.ancestors(&has), &has, "its dependencies precede it");
            question.heads = graph.heads_of(&has);
            question.sent_through = question.sent_through.max(closing.sent_through);
            if closing.complete {
                break;
            }
        }
        prop_assert_eq!(has, graph.all());
    }

    /// A peer with changes of its own gets everything that its filter does not contain, and the
    /// descendants.
    #[test]
    fn a_filtered_answer_leaves_out_only_what_the_filter_hides(seed: u64) {
        let (Case { graph, has, common, question }, _) = case(seed, true);
        let index = graph.index(true);
        let plan = Plan::of(&index, &question).unwrap();
        prop_assert_eq!(plan.unknown.len(), 1);
        prop_assert!(!plan.lost);
        // The reference: plain sets of hashes.
        let known: Set = question.heads.iter().copied().filter(|h| graph.all().contains(h)).collect();
        let mut certain = graph.ancestors(&known);
        certain.extend(&common);
        let filter = &question.have[0].filter;
        let (mut sent, compacted) = (Set::new(), graph.compacted_set());
        for row in &graph.rows {
            // A snapshot is one item: dependencies inside it do not matter.
            let rests = !compacted.contains(&row.hash)
                && row.dependencies.iter().any(|hash| sent.contains(hash));
            if !certain.contains(&row.hash) && (rests || !filter.contains_hash(&row.hash)) {
                sent.insert(row.hash);
            }
        }
        prop_assert_eq!(plan.snapshot, sent.intersection(&compacted).next().is_some());
        let tail: Set = sent.difference(&compacted).copied().collect();
        prop_assert_eq!(graph.hashes(&plan.offsets), tail);
        let hidden = |hash: &ChangeHash| filter.contains_hash(hash);
        let lacks = graph.all().into_iter().filter(|hash| !has.contains(hash));
        for hash in lacks {
            prop_assert!(sent.contains(&hash) || hidden(&hash) || compacted.contains(&hash));
        }
        // The relay announces everything that it has: some for certain, the rest in a filter.
        let closing = plan.close(&index, plan.offsets.len());
        let [have] = &closing.have[..] else { panic!("one") };
        let mut names = known.clone();
        names.extend(&question.have[0].last_sync);
        prop_assert_eq!(have.last_sync.iter().copied().collect::<Set>(), names);
        prop_assert!(have.last_sync.is_sorted());
        prop_assert_eq!(have.entries as usize, graph.all().len() - certain.len());
        let beyond = graph.all().into_iter().filter(|hash| !certain.contains(hash));
        prop_assert!(beyond.into_iter().all(|hash| have.filter.contains_hash(&hash)));
    }

    /// Sent changes are not sent again, unless they are needed by hash.
    #[test]
    fn sent_changes_are_repeated_only_when_needed(seed: u64, strangers: bool) {
        let (Case { graph, mut question, .. }, mut rng) = case(seed, strangers);
        let index = graph.index(true);
        let whole = Plan::of(&index, &question).unwrap();
        question.sent_through = graph.rows[rng.below(graph.rows.len())].offset;
        let sent = question.sent_through;
        let plan = Plan::of(&index, &question).unwrap();
        let later: Vec<Offset> = whole.offsets.iter().copied().filter(|at| *at > sent).collect();
        prop_assert_eq!(&plan.offsets, &later);
        let compacted_at = index.compacted.as_ref().map_or(Offset(0), |compacted| compacted.offset);
        prop_assert_eq!(plan.snapshot, whole.snapshot && compacted_at > sent);
        let needed = &graph.rows[rng.below(graph.rows.len())];
        // A need for an unknown hash changes nothing.
        question.need = vec![needed.hash, ChangeHash([0xee; 32])];
        let plan = Plan::of(&index, &question).unwrap();
        let in_snapshot = graph.compacted_set().contains(&needed.hash);
        prop_assert!(plan.snapshot || !in_snapshot);
        let mut expected: BTreeSet<Offset> = later.into_iter().collect();
        if !in_snapshot {
            expected.insert(needed.offset);
        }
        prop_assert_eq!(plan.offsets.iter().copied().collect::<BTreeSet<_>>(), expected);
    }

    /// Without the packed index, the plan is the same or asks for it.
    #[test]
    fn the_packed_index_is_requested_only_when_needed(seed: u64, strangers: bool) {
        let (Case { graph, question, .. }, _) = case(seed, strangers);
        let plan = Plan::of(&graph.index(true), &question).unwrap();
        match Plan::of(&graph.index(false), &question) {
            Err(NeedsSnapshotHistory) => prop_assert!(graph.compacted > 0),
            Ok(without) => {
                prop_assert_eq!((&without.offsets, without.snapshot), (&plan.offsets, plan.snapshot));
                prop_assert_eq!(&without.unknown, &plan.unknown);
            }
        }
        let hashes: Vec<ChangeHash> = graph.all().into_iter().chain([ChangeHash([0xee; 32])]).collect();
        let found = known(&graph.index(true), &hashes).unwrap();
        prop_assert_eq!(found, graph.all().into_iter().collect::<Vec<_>>());
    }

    /// Two real documents: the plan sends what automerge itself would send.
    #[test]
    fn a_plan_equals_automerges_answer(seed in 0u64..1_000_000, apart in 0usize..15) {
        let mut rng = Rng::new(seed);
        let mut ours = Automerge::new().with_actor(ActorId::from(rng.bytes::<16>()));
        let mut state = State::new();
        write(&mut ours, &mut rng, 10);
        let mut theirs = ours.fork().with_actor(ActorId::from(rng.bytes::<16>()));
        if rng.chance(50) {
            state.shared_heads = ours.get_heads();
        }
        write(&mut ours, &mut rng, 20);
        write(&mut theirs, &mut rng, apart);
        let message = theirs.generate_sync_message(&mut state).unwrap();
        let bytes = message.clone().encode();
        let question = SyncRequest::of(SyncMessage::decode(&bytes).unwrap(), Offset(0));
        let index = index_of(&ours);
        let plan = Plan::of(&index, &question).unwrap();
        let at = |offset: &Offset| index.tail[offset.0 as usize - 1].hash;
        let planned: Set = plan.offsets.iter().map(at).collect();
        // As the relay sends it: without flags.
        let mut state = State::new();
        ours.receive_sync_message(&mut state, message).unwrap();
        state.their_capabilities = None;
        let answer = ours.generate_sync_message(&mut state).unwrap();
        let sent = answer.changes.iter().map(|chunk| Change::from_bytes(chunk.to_vec()).unwrap().hash());
        let sent: Set = sent.collect();
        if plan.unknown.is_empty() {
            prop_assert!(sent.is_subset(&planned), "automerge leaves out changes that a filter hides");
        } else {
            prop_assert_eq!(&sent, &planned);
            prop_assert_eq!(&plan.unknown, &theirs.get_heads());
        }
        prop_assert_eq!(&index.heads, &answer.heads);
    }
}

fn write(automerge: &mut Automerge, rng: &mut Rng, most: usize) {
    for _ in 0..rng.below(most + 1) {
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, "key", rng.next_u64() as i64).unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0));
    }
}

fn index_of(automerge: &Automerge) -> DocumentIndex {
    let row = |(number, change): (usize, &Change)| IndexRow {
        offset: Offset(number as u64 + 1),
        hash: change.hash(),
        dependencies: change.deps().to_vec(),
    };
    let tail: Vec<_> = automerge.get_changes(&[]).iter().enumerate().map(row).collect();
    let last = Offset(tail.len() as u64);
    DocumentIndex { heads: automerge.get_heads(), last, compacted: None, tail }
}

#[test]
fn a_peer_with_a_lost_history_is_asked_for_all_of_it() {
    let (Case { graph, mut question, .. }, _) = case(3, true);
    question.have[0].last_sync = vec![ChangeHash([0xee; 32])];
    let index = graph.index(true);
    let plan = Plan::of(&index, &question).unwrap();
    assert!(plan.lost && plan.is_empty());
    let closing = plan.close(&index, 0);
    assert_eq!(closing.have, [Have::default()]);
    assert_eq!((closing.sent_through, closing.complete), (Offset(0), false));
}

#[test]
fn a_peer_without_a_have_gets_the_newer_changes_or_is_asked() {
    let (Case { graph, mut question, .. }, _) = case(3, true);
    question.have.clear();
    let index = graph.index(true);
    let plan = Plan::of(&index, &question).unwrap();
    assert!(plan.is_empty() && !plan.lost);
    let closing = plan.close(&index, 0);
    assert_eq!((closing.sent_through, closing.complete), (Offset(0), false));
    // The peer was sent everything up to here, so it lacks the rest.
    let last = index.tail.last().unwrap();
    question.sent_through = Offset(last.offset.0 - 1);
    question.heads.retain(|head| *head != last.hash);
    let plan = Plan::of(&index, &question).unwrap();
    assert_eq!(plan.offsets, [last.offset]);
    let closing = plan.close(&index, 1);
    assert_eq!((closing.sent_through, closing.complete), (index.last, true));
}
