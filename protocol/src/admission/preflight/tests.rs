//! The preflight against honest changes, hostile ones made by hand, and mutations of both.

mod honest;
mod hostile;
mod mutations;
mod work;

use std::io::Write;

use automerge::Change;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

use super::*;
use crate::admission::FormError;
use crate::admission::reader::tests::{put_signed, put_unsigned};

/// A chunk of any type around a body, with the checksum of `checksum_of` as a change.
fn sealed(kind: u8, body: &[u8], checksum_of: &[u8]) -> Vec<u8> {
    let mut hashed = vec![1];
    put_unsigned(checksum_of.len() as u64, &mut hashed);
    hashed.extend(checksum_of);
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83];
    chunk.extend(&Sha256::digest(&hashed)[..4]);
    chunk.push(kind);
    put_unsigned(body.len() as u64, &mut chunk);
    chunk.extend(body);
    chunk
}

/// A change around any body, with correct length and checksum.
fn seal(body: &[u8]) -> Vec<u8> {
    sealed(1, body, body)
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// As [`seal`], deflated.
fn seal_deflated(body: &[u8]) -> Vec<u8> {
    sealed(2, &deflate(body), body)
}

/// A hand-made change, in which a test can falsify any part.
#[derive(Clone)]
struct Draft {
    dependencies: Vec<[u8; 32]>,
    actor: Vec<u8>,
    seq: u64,
    start_op: u64,
    time: i64,
    message: Vec<u8>,
    other_actors: Vec<Vec<u8>>,
    columns: Vec<(u64, Vec<u8>)>,
    extra: Vec<u8>,
}

impl Draft {
    /// `put(root, "k", 1)`, byte for byte as automerge encodes it.
    fn put() -> Self {
        Self {
            dependencies: vec![],
            actor: vec![0xaa, 0xbb],
            seq: 1,
            start_op: 1,
            time: 0,
            message: vec![],
            other_actors: vec![],
            columns: vec![
                (KEY_TEXT, literal(b"\x01k")),
                (INSERT, vec![1]),
                (ACTION, literal(&[1])),
                (VALUE, literal(&[0x14])),
                (RAW_VALUE, vec![1]),
                (PREDECESSORS, literal(&[0])),
            ],
            extra: vec![],
        }
    }

    /// The second change of a document: it overwrites the value of [`Draft::put`].
    fn overwrite() -> Self {
        let draft = Self { seq: 2, start_op: 2, ..Self::put() };
        draft
            .with(PREDECESSORS, &literal(&[1]))
            .with(PREDECESSOR_ACTOR, &literal(&[0]))
            .with(PREDECESSOR_COUNTER, &literal(&[1]))
    }

    /// Inserts a value at the head of the list that is operation 1.
    fn insert() -> Self {
        let draft = Self { seq: 2, start_op: 2, ..Self::put() };
        draft
            .with(OBJECT_ACTOR, &literal(&[0]))
            .with(OBJECT_COUNTER, &literal(&[1]))
            .without(KEY_TEXT)
            .with(KEY_COUNTER, &literal(&[0]))
            .with(INSERT, &[0, 1])
    }

    /// Replaces a column, or inserts it at its place.
    fn with(mut self, spec: u64, bytes: &[u8]) -> Self {
        match self.columns.binary_search_by_key(&spec, |column| column.0) {
            Ok(at) => self.columns[at].1 = bytes.to_vec(),
            Err(at) => self.columns.insert(at, (spec, bytes.to_vec())),
        }
        self
    }

    fn without(mut self, spec: u64) -> Self {
        self.columns.retain(|column| column.0 != spec);
        self
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_unsigned(self.dependencies.len() as u64, &mut body);
        self.dependencies.iter().for_each(|hash| body.extend(hash));
        put_bytes(&self.actor, &mut body);
        put_unsigned(self.seq, &mut body);
        put_unsigned(self.start_op, &mut body);
        put_signed(self.time, &mut body);
        put_bytes(&self.message, &mut body);
        put_unsigned(self.other_actors.len() as u64, &mut body);
        self.other_actors.iter().for_each(|actor| put_bytes(actor, &mut body));
        put_unsigned(self.columns.len() as u64, &mut body);
        for (spec, bytes) in &self.columns {
            put_unsigned(*spec, &mut body);
            put_unsigned(bytes.len() as u64, &mut body);
        }
        self.columns.iter().for_each(|(_, bytes)| body.extend(bytes));
        body.extend(&self.extra);
        body
    }

    fn check(&self) -> Result<CheckedChange, FormError> {
        preflight(&seal(&self.body()))
    }
}

const OBJECT_ACTOR: u64 = 0x01;
const OBJECT_COUNTER: u64 = 0x02;
const KEY_ACTOR: u64 = 0x11;
const KEY_COUNTER: u64 = 0x13;
const KEY_TEXT: u64 = 0x15;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;
const VALUE: u64 = 0x56;
const RAW_VALUE: u64 = 0x57;
const PREDECESSORS: u64 = 0x70;
const PREDECESSOR_ACTOR: u64 = 0x71;
const PREDECESSOR_COUNTER: u64 = 0x73;
const EXPAND: u64 = 0x94;
const MARK_NAME: u64 = 0xa5;

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_unsigned(bytes.len() as u64, out);
    out.extend(bytes);
}

/// A literal run of one encoded value.
fn literal(value: &[u8]) -> Vec<u8> {
    [&[0x7f], value].concat()
}

/// A run of `count` equal values.
fn run(count: i64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(count, &mut out);
    out.extend(value);
    out
}

fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_unsigned(value, &mut out);
    out
}

fn difference(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(value, &mut out);
    out
}

/// The body of automerge's own type-1 chunk.
fn body_of(change: &Change) -> Vec<u8> {
    let raw = change.raw_bytes();
    let length = raw[9..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    raw[9 + length..].to_vec()
}

/// The change as automerge rebuilds it from its operations. A document that holds a change for
/// which these bytes differ saves, but does not load.
fn rebuilt(change: &Change) -> Vec<u8> {
    Change::from(change.decode()).raw_bytes().to_vec()
}
