//! Reads a packed index, and checks once everything that its users rely on later.

use super::bytes::IndexReader;
use super::{
    BadIndex, CHECKSUM_BYTES, HASH_BYTES, MAGIC, PackedIndex, ROW_LEAST_BYTES, VERSION, checksum,
};
use crate::limits;

pub(super) fn parse(blob: Vec<u8>) -> Result<PackedIndex, BadIndex> {
    if u32::try_from(blob.len()).is_err() {
        return Err(BadIndex::TooLarge);
    }
    let (body, stated) = blob
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(BadIndex::Truncated { part: "checksum" })?;
    let mut reader = IndexReader::new(body);
    if reader.take(MAGIC.len(), "magic")? != MAGIC {
        return Err(BadIndex::Magic);
    }
    let version = reader.take(1, "version")?[0];
    if version != VERSION {
        return Err(BadIndex::Version { found: version });
    }
    if checksum(body) != *stated {
        return Err(BadIndex::Checksum);
    }
    let actors = actors(&mut reader)?;
    let count = count(&mut reader, HASH_BYTES + ROW_LEAST_BYTES, "changes")?;
    let at = reader.at();
    let hashes: &[[u8; HASH_BYTES]] = reader.take(count * HASH_BYTES, "hashes")?.as_chunks().0;
    let order = order(hashes)?;
    let mut rows = Rows::new(count, actors.len());
    for _ in 0..count {
        rows.read(&mut reader)?;
    }
    if reader.left() > 0 {
        return Err(BadIndex::TrailingBytes { count: reader.left() });
    }
    let (starts, by_actor) = rows.by_actor()?;
    let heads = order.iter().copied().filter(|&position| !rows.followed[position as usize]);
    let heads = heads.collect();
    Ok(PackedIndex {
        hashes: at,
        actors: actors.into(),
        starts: starts.into(),
        by_actor: by_actor.into(),
        rows: rows.begins.into(),
        max_ops: rows.max_ops.into(),
        order: order.into(),
        heads,
        blob: blob.into(),
    })
}

/// A count of items of at least `least` bytes each, compared with the rest of the input before use.
fn count(
    reader: &mut IndexReader<'_>,
    least: usize,
    part: &'static str,
) -> Result<usize, BadIndex> {
    let stated = reader.number(part)?;
    let count = usize::try_from(stated).ok().filter(|&count| count <= reader.left() / least);
    count.ok_or(BadIndex::Truncated { part })
}

/// The offset of each actor.
fn actors(reader: &mut IndexReader<'_>) -> Result<Vec<u32>, BadIndex> {
    let count = count(reader, 2, "actors")?;
    let (mut actors, mut before) = (Vec::with_capacity(count), &[][..]);
    for number in 0..count {
        actors.push(reader.at() as u32);
        let length = reader.number("actors")?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > limits::ACTOR_BYTES {
            return Err(BadIndex::Actor { number, what: "its id has a wrong length" });
        }
        let actor = reader.take(length, "actors")?;
        // Ids are not empty, so the first is greater than the empty start value.
        if actor <= before {
            return Err(BadIndex::Actor { number, what: "it is out of order or a duplicate" });
        }
        before = actor;
    }
    Ok(actors)
}

/// Positions ascending by hash.
fn order(hashes: &[[u8; HASH_BYTES]]) -> Result<Vec<u32>, BadIndex> {
    let hash = |position: u32| &hashes[position as usize];
    let mut order: Vec<u32> = (0..hashes.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| hash(a).cmp(hash(b)));
    match order.windows(2).find(|pair| hash(pair[0]) == hash(pair[1])) {
        Some(pair) => {
            let position = pair[0].max(pair[1]) as usize;
            Err(BadIndex::Change { position, what: "it is a duplicate" })
        }
        None => Ok(order),
    }
}

/// Data collected from the rows.
struct Rows {
    begins: Vec<u32>,
    max_ops: Vec<u32>,
    /// The actor's number of each change.
    actors: Vec<u32>,
    /// The number of changes of each actor.
    counts: Vec<u32>,
    /// Whether a later change depends on it.
    followed: Vec<bool>,
    /// The distances of one row; the buffer is reused.
    distances: Vec<u64>,
}

impl Rows {
    fn new(changes: usize, actors: usize) -> Self {
        Self {
            begins: Vec::with_capacity(changes),
            max_ops: Vec::with_capacity(changes),
            actors: Vec::with_capacity(changes),
            counts: vec![0; actors],
            followed: vec![false; changes],
            distances: Vec::new(),
        }
    }

    fn read(&mut self, reader: &mut IndexReader<'_>) -> Result<(), BadIndex> {
        const PART: &str = "rows";
        let position = self.begins.len();
        let impossible = |what| BadIndex::Change { position, what };
        self.begins.push(reader.at() as u32);
        let actor = reader.number(PART)?;
        let actor = usize::try_from(actor).ok().filter(|&actor| actor < self.counts.len());
        let actor = actor.ok_or(impossible("its actor is missing"))?;
        self.counts[actor] += 1;
        self.actors.push(actor as u32);
        let growth = reader.number(PART)?;
        let dependencies = count(reader, 1, PART)?;
        if dependencies > limits::CHANGE_DEPENDENCIES {
            return Err(impossible("it has too many dependencies"));
        }
        self.distances.clear();
        let mut past = 0;
        for _ in 0..dependencies {
            let distance = reader.number(PART)?;
            if distance == 0 || distance > position as u64 {
                return Err(impossible("a dependency does not precede it"));
            }
            let dependency = position - distance as usize;
            past = past.max(self.max_ops[dependency]);
            self.followed[dependency] = true;
            self.distances.push(distance);
        }
        self.distances.sort_unstable();
        if self.distances.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(impossible("it has a dependency twice"));
        }
        let max_op = u64::from(past).checked_add(growth);
        let max_op = max_op.filter(|&max_op| max_op <= limits::OPERATION_COUNTER);
        self.max_ops.push(max_op.ok_or(impossible("its counters are too large"))? as u32);
        Ok(())
    }

    /// The beginning of each actor's changes, and the changes by actor.
    fn by_actor(&self) -> Result<(Vec<u32>, Vec<u32>), BadIndex> {
        if let Some(number) = self.counts.iter().position(|&count| count == 0) {
            return Err(BadIndex::Actor { number, what: "it has no change" });
        }
        let mut starts = Vec::with_capacity(self.counts.len() + 1);
        let mut next = 0;
        starts.push(next);
        for count in &self.counts {
            next += count;
            starts.push(next);
        }
        let mut ends = starts.clone();
        let mut by_actor = vec![0; self.actors.len()];
        for (position, &actor) in self.actors.iter().enumerate() {
            let end = &mut ends[actor as usize];
            by_actor[*end as usize] = position as u32;
            *end += 1;
        }
        Ok((starts, by_actor))
    }
}
