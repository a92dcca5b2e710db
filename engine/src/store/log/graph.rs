//! A document's tail as a graph of dependencies, from which heads are computed. It reads and writes no
//! marks.

use std::collections::{BTreeMap, BTreeSet};

use automerge::Change;
use landfall_protocol::{ActorId, ChangeHash};
use rusqlite::{Connection, params};

use super::rows::{DocumentRow, hash_of, parts};
use super::snapshots::compacted_heads;

/// A change of the tail, with its parsed fields.
#[derive(Debug, Clone)]
pub(in crate::store) struct Node {
    pub(in crate::store) local: u64,
    pub(in crate::store) hash: ChangeHash,
    pub(in crate::store) actor: ActorId,
    pub(in crate::store) seq: u64,
    pub(in crate::store) dependencies: Vec<ChangeHash>,
}

/// A document's tail in the order of the log. Each change is parsed, at about 12 µs. A change with
/// damaged bytes counts as having no dependencies.
pub(in crate::store) fn tail(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Vec<Node>> {
    let base = parts(conn, document)?.base;
    let mut statement = conn.prepare_cached(
        "SELECT c.local, c.hash, a.actor, c.seq, c.body
         FROM change c JOIN actor a ON a.id = c.actor
         WHERE c.document = ?1 AND c.local > ?2 ORDER BY c.local",
    )?;
    let mut rows = statement.query(params![document.0, base])?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        let change = Change::from_bytes(row.get(4)?);
        let dependencies = change.map(|change| change.deps().to_vec()).unwrap_or_default();
        nodes.push(Node {
            local: row.get(0)?,
            hash: hash_of(row.get(1)?),
            actor: ActorId::from(row.get::<_, Vec<u8>>(2)?),
            seq: row.get(3)?,
            dependencies,
        });
    }
    Ok(nodes)
}

/// A document's heads, from its snapshot and its tail, ascending.
pub(in crate::store) fn heads(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Vec<ChangeHash>> {
    let compacted = compacted_heads(conn, document)?.into_iter().map(|(hash, _)| hash);
    let mut heads: BTreeSet<ChangeHash> = compacted.collect();
    let nodes = tail(conn, document)?;
    heads.extend(nodes.iter().map(|node| node.hash));
    for dependency in nodes.iter().flat_map(|node| &node.dependencies) {
        heads.remove(dependency);
    }
    Ok(heads.into_iter().collect())
}

/// These changes of the tail and all their dependents, in the order of the log. An actor's later
/// changes count as dependents of its earlier ones, whatever dependencies they state.
pub(in crate::store) fn dependents(nodes: &[Node], first: &[ChangeHash]) -> Vec<Node> {
    let mut taken: BTreeSet<ChangeHash> = first.iter().copied().collect();
    let mut actors: BTreeMap<&ActorId, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for node in nodes {
        let rests = node.dependencies.iter().any(|dependency| taken.contains(dependency));
        let later = actors.get(&node.actor).is_some_and(|seq| *seq < node.seq);
        if taken.contains(&node.hash) || rests || later {
            taken.insert(node.hash);
            let seq = actors.entry(&node.actor).or_insert(node.seq);
            *seq = (*seq).min(node.seq);
            found.push(node.clone());
        }
    }
    found
}

/// The changes of the tail that some heads depend on, including the heads; and those heads and
/// dependencies that are outside the tail: compacted changes, or unknown ones.
pub(in crate::store) fn ancestors(
    nodes: &[Node],
    heads: &[ChangeHash],
) -> (BTreeSet<ChangeHash>, BTreeSet<ChangeHash>) {
    let by_hash: BTreeMap<ChangeHash, &Node> = nodes.iter().map(|node| (node.hash, node)).collect();
    let mut found = BTreeSet::new();
    let mut outside = BTreeSet::new();
    let mut waiting: Vec<ChangeHash> = heads.to_vec();
    while let Some(hash) = waiting.pop() {
        match by_hash.get(&hash) {
            Some(node) if found.insert(hash) => waiting.extend(&node.dependencies),
            Some(_) => {}
            None => {
                outside.insert(hash);
            }
        }
    }
    (found, outside)
}
