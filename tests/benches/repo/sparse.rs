//! A client that speaks automerge's sync protocol without a document: it knows only which changes it
//! has. Seventy of these cost little compared with the server.
//!
//! When and what it sends follows automerge 0.12's `sync.rs`, as automerge-repo uses it: it answers
//! every message at once if it has something to send.

use automerge::ChangeHash;
use automerge::sync::{BloomFilter, ChunkList, Have, Message, MessageFlags, MessageVersion};

use super::world::{World, cover};

const DOCUMENT_CHUNK: u8 = 0;

/// One client's end.
pub struct Sparse {
    me: usize,
    /// The changes that it has, by author.
    clock: Vec<u32>,
    /// The changes that it has and on which none of them depends.
    heads: Vec<usize>,
    /// Changes that arrived before their dependencies.
    orphans: Vec<usize>,
    sent: u32,
    their_heads: Option<Vec<ChangeHash>>,
    their_need: Vec<ChangeHash>,
    shared_heads: Vec<ChangeHash>,
    last_sent_heads: Option<Vec<ChangeHash>>,
    takes_v2: bool,
    in_flight: bool,
}

impl Sparse {
    /// A client that has the initial document, and knows that its server has it too.
    pub fn new(world: &World, me: usize) -> Self {
        Self {
            me,
            clock: world.change(0).clock.clone(),
            heads: vec![0],
            orphans: Vec::new(),
            sent: 0,
            their_heads: None,
            their_need: Vec::new(),
            shared_heads: vec![world.change(0).hash],
            last_sent_heads: None,
            takes_v2: false,
            in_flight: false,
        }
    }

    /// Types a character; returns the change's number.
    pub fn edit(&mut self, world: &mut World) -> usize {
        let number = world.edit(self.me, &self.heads);
        self.clock[self.me] += 1;
        self.heads = vec![number];
        number
    }

    /// Processes a message; returns the changes that are new to this client.
    pub fn receive(&mut self, world: &World, message: Message) -> Vec<usize> {
        self.in_flight = false;
        self.takes_v2 |= message.flags.is_some();
        let mut new = Vec::new();
        for chunks in message.changes.iter() {
            self.take_chunks(world, chunks, &message.heads, &mut new);
        }
        self.adopt(world, &mut new);
        let mut known: Vec<ChangeHash> = Vec::new();
        known.extend(message.heads.iter().filter(|hash| self.holds(world, hash)));
        if known.len() == message.heads.len() {
            self.shared_heads = known;
        } else {
            self.shared_heads.append(&mut known);
            self.shared_heads.sort();
            self.shared_heads.dedup();
        }
        self.their_heads = Some(message.heads);
        self.their_need = message.need;
        new
    }

    /// The next message to send, if there is one.
    pub fn generate(&mut self, world: &World) -> Option<Vec<u8>> {
        let heads = self.head_hashes(world);
        let need = self.missing(world);
        let theirs = self.their_heads.as_deref().unwrap_or_default();
        let have = match need.iter().all(|hash| theirs.contains(hash)) {
            true => vec![self.have(world)],
            false => Vec::new(),
        };
        let changes = match self.their_heads {
            Some(_) => self.unsent(world),
            None => Vec::new(),
        };
        if self.last_sent_heads.as_ref() == Some(&heads) {
            let equal = self.their_heads.as_ref() == Some(&heads);
            if self.in_flight || (equal && changes.is_empty()) {
                return None;
            }
        }
        self.sent = self.clock[self.me];
        self.their_need.clear();
        self.last_sent_heads = Some(heads.clone());
        self.in_flight = true;
        let mut flags = MessageFlags::new();
        flags.set(MessageFlags::SUPPORTS_SYNC_RESET);
        let changes = changes.into_iter().map(|number| world.change(number).bytes.clone());
        let changes: Vec<Vec<u8>> = changes.collect();
        let (version, changes) = match self.takes_v2 {
            true if changes.is_empty() => (MessageVersion::V2, ChunkList::empty()),
            true => (MessageVersion::V2, changes.concat().into()),
            false => (MessageVersion::V1, changes.into()),
        };
        Some(Message { heads, need, have, changes, flags: Some(flags), version }.encode())
    }

    fn holds(&self, world: &World, hash: &ChangeHash) -> bool {
        world.by_hash(hash).is_some_and(|number| self.has(world, number))
    }

    fn has(&self, world: &World, number: usize) -> bool {
        let change = world.change(number);
        self.clock[change.author] >= change.seq
    }

    fn head_hashes(&self, world: &World) -> Vec<ChangeHash> {
        let mut heads: Vec<ChangeHash> =
            self.heads.iter().map(|&number| world.change(number).hash).collect();
        heads.sort();
        heads
    }

    fn take_chunks(
        &mut self,
        world: &World,
        mut bytes: &[u8],
        heads: &[ChangeHash],
        new: &mut Vec<usize>,
    ) {
        while bytes.len() > 9 {
            let (kind, length) = (bytes[8], leb128(&bytes[9..]));
            if kind == DOCUMENT_CHUNK {
                self.take_all(world, heads, new);
            } else if let Some(number) = world.by_checksum(bytes[4..8].try_into().unwrap()) {
                self.orphans.push(number);
            }
            let next = 9 + length.1 + length.0;
            bytes = bytes.get(next..).unwrap_or_default();
        }
    }

    /// Adds everything below the heads of a received document chunk.
    fn take_all(&mut self, world: &World, heads: &[ChangeHash], new: &mut Vec<usize>) {
        for head in heads.iter().filter_map(|hash| world.by_hash(hash)) {
            if self.has(world, head) {
                continue;
            }
            let clock = world.change(head).clock.clone();
            for (author, &last) in clock.iter().enumerate() {
                let seqs = self.clock[author] + 1..=last;
                new.extend(seqs.map(|seq| world.by_author(author, seq)));
            }
            cover(&mut self.clock, &clock);
            self.heads.retain(|&held| {
                let held = world.change(held);
                clock[held.author] < held.seq
            });
            self.heads.push(head);
        }
    }

    /// Adds the deferred changes whose dependencies are all present now.
    fn adopt(&mut self, world: &World, new: &mut Vec<usize>) {
        let mut waiting = std::mem::take(&mut self.orphans);
        loop {
            let before = waiting.len();
            waiting.retain(|&number| {
                let change = world.change(number);
                if self.has(world, number) {
                    return false;
                }
                if !change.dependencies.iter().all(|&needed| self.has(world, needed)) {
                    return true;
                }
                self.clock[change.author] = change.seq;
                self.heads.retain(|head| !change.dependencies.contains(head));
                self.heads.push(number);
                new.push(number);
                false
            });
            if waiting.len() == before {
                break;
            }
        }
        self.orphans = waiting;
    }

    /// The changes to request in order to reach the server's heads.
    fn missing(&self, world: &World) -> Vec<ChangeHash> {
        let theirs = self.their_heads.iter().flatten();
        let mut open: Vec<usize> = theirs.filter_map(|hash| world.by_hash(hash)).collect();
        let mut missing = Vec::new();
        while let Some(number) = open.pop() {
            if self.orphans.contains(&number) {
                open.extend(&world.change(number).dependencies);
            } else if !self.has(world, number) {
                missing.push(world.change(number).hash);
            }
        }
        missing.sort();
        missing.dedup();
        missing
    }

    /// A Bloom filter over all its changes beyond those that the server is known to have.
    fn have(&self, world: &World) -> Have {
        let mut shared = vec![0; self.clock.len()];
        for number in self.shared_heads.iter().filter_map(|hash| world.by_hash(hash)) {
            cover(&mut shared, &world.change(number).clock);
        }
        let mut beyond = Vec::new();
        for (author, (&from, &to)) in shared.iter().zip(&self.clock).enumerate() {
            let numbers = (from + 1..=to).map(|seq| world.by_author(author, seq));
            beyond.extend(numbers.map(|number| world.change(number).hash));
        }
        let bloom = BloomFilter::from_hashes(beyond.iter());
        Have { last_sync: self.shared_heads.clone(), bloom }
    }

    /// Its own unsent changes, and those that the server requested.
    fn unsent(&self, world: &World) -> Vec<usize> {
        let needed = self.their_need.iter().filter_map(|hash| world.by_hash(hash));
        let mut numbers: Vec<usize> =
            needed.filter(|&number| number != 0 && self.has(world, number)).collect();
        let own = self.sent + 1..=self.clock[self.me];
        numbers.extend(own.map(|seq| world.by_author(self.me, seq)));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// A number and its length in bytes.
fn leb128(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    (value, bytes.len())
}
