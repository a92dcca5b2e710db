//! The protocol between a supervisor and its worker over two pipes. Both are the same program, so the
//! format may change with every release; the greeting verifies that the release is the same.
//!
//! The parent sends a greeting, parts and an end. The worker answers with parts and an end, or with a
//! refusal.

use std::io::{self, Read, Write};
use std::time::Duration;

use landfall_protocol::ChangeHash;

use crate::JobKind;

/// Starts every job. The last byte is the format's version. The release follows: its length in one
/// byte, and its text.
const JOB_HEADER: [u8; 8] = *b"LFfold\0\x06";

/// The release of this program.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Limit of the hashes in a job: the same as for a sync message in `landfall_protocol`.
const HAVE_COUNT: usize = 1 << 20;

/// The content of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// To the worker, an input snapshot; from it, the resulting one.
    Snapshot = 1,
    /// A change, in either direction.
    Change = 2,
    /// From the worker: a packed index.
    Index = 3,
    /// From the worker: why it refused the job, as text.
    Refused = 4,
    /// The end of the parts.
    End = 5,
    /// To the worker: untrusted chunks.
    Part = 6,
    /// From the worker: the hash of a missing change, instead of a result.
    Missing = 7,
    /// From the worker: the index of a part from which something was left out, and why, as text.
    LeftOut = 8,
    /// From the worker: the size of a snapshot that is too large, and the limit.
    TooLarge = 9,
    /// From the worker: the uploaded snapshot is valid and has so many changes. The merged result
    /// follows.
    Valid = 10,
}

impl Tag {
    fn of(byte: u8) -> Option<Self> {
        use Tag::{Change, End, Index, LeftOut, Missing, Part, Refused, Snapshot, TooLarge, Valid};
        [Snapshot, Change, Index, Refused, End, Part, Missing, LeftOut, TooLarge, Valid]
            .into_iter()
            .find(|tag| *tag as u8 == byte)
    }
}

/// A worker's job and limits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JobHeader {
    pub(crate) memory_bytes: u64,
    pub(crate) time: Duration,
    /// Limit of a snapshot, made or opened, in bytes.
    pub(crate) snapshot_bytes: u64,
    pub(crate) kind: JobKind,
}

impl JobHeader {
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&JOB_HEADER)?;
        to.write_all(&[u8::try_from(RELEASE.len()).unwrap_or(u8::MAX)])?;
        to.write_all(RELEASE.as_bytes())?;
        to.write_all(&self.memory_bytes.to_le_bytes())?;
        to.write_all(&u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX).to_le_bytes())?;
        to.write_all(&self.snapshot_bytes.to_le_bytes())?;
        let (kind, hashes): (u8, Vec<[u8; 32]>) = match &self.kind {
            JobKind::Compaction => (0, Vec::new()),
            JobKind::Inspect { hash } => (1, vec![*hash]),
            JobKind::ChangesSince { have } => (2, have.iter().map(|hash| hash.0).collect()),
            JobKind::Absorb { salvage: false } => (3, Vec::new()),
            JobKind::Absorb { salvage: true } => (4, Vec::new()),
            JobKind::Merge { hash, heads: None } => (6, vec![*hash]),
            JobKind::Merge { hash, heads: Some(heads) } => {
                (5, std::iter::once(*hash).chain(heads.iter().map(|head| head.0)).collect())
            }
        };
        to.write_all(&[kind])?;
        to.write_all(&(hashes.len() as u64).to_le_bytes())?;
        to.write_all(hashes.as_flattened())
    }

    /// Reads a job. [`io::ErrorKind::Unsupported`] if a program of another release sent it.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let begin: [u8; 8] = array(from)?;
        if begin[..7] != JOB_HEADER[..7] {
            return Err(invalid("this subcommand is reserved for the program itself"));
        }
        if begin != JOB_HEADER {
            return Err(other_release("another release"));
        }
        let [length] = array(from)?;
        let mut release = vec![0; usize::from(length)];
        from.read_exact(&mut release)?;
        if release != RELEASE.as_bytes() {
            return Err(other_release(&String::from_utf8_lossy(&release)));
        }
        let memory_bytes = u64::from_le_bytes(array(from)?);
        let time = Duration::from_millis(u64::from_le_bytes(array(from)?));
        let snapshot_bytes = u64::from_le_bytes(array(from)?);
        let [kind] = array(from)?;
        let count = u64::from_le_bytes(array(from)?);
        if count > HAVE_COUNT as u64 {
            return Err(invalid("the job names too many hashes"));
        }
        let hashes: Vec<[u8; 32]> = (0..count).map(|_| array(from)).collect::<io::Result<_>>()?;
        let kind = match (kind, &hashes[..]) {
            (0, []) => JobKind::Compaction,
            (1, &[hash]) => JobKind::Inspect { hash },
            (2, have) => {
                JobKind::ChangesSince { have: have.iter().copied().map(ChangeHash).collect() }
            }
            (3, []) => JobKind::Absorb { salvage: false },
            (4, []) => JobKind::Absorb { salvage: true },
            (5, [hash, heads @ ..]) => {
                let heads = heads.iter().copied().map(ChangeHash).collect();
                JobKind::Merge { hash: *hash, heads: Some(heads) }
            }
            (6, &[hash]) => JobKind::Merge { hash, heads: None },
            _ => return Err(invalid("the job's kind is unknown")),
        };
        Ok(Self { memory_bytes, time, snapshot_bytes, kind })
    }
}

fn other_release(theirs: &str) -> io::Error {
    let what = format!(
        "the program was replaced by release {RELEASE} while {theirs} runs: restart the program"
    );
    io::Error::new(io::ErrorKind::Unsupported, what)
}

pub(crate) fn write_part(to: &mut impl Write, tag: Tag, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&[tag as u8])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

/// Reads the next part, of at most `limit` bytes. Memory grows with the bytes that arrive, not with the
/// length that is claimed.
pub(crate) fn read_part(from: &mut impl Read, limit: u64) -> io::Result<(Tag, Vec<u8>)> {
    let [tag] = array(from)?;
    let tag = Tag::of(tag).ok_or_else(|| invalid("the part's kind is unknown"))?;
    let length = u64::from_le_bytes(array(from)?);
    if length > limit {
        return Err(invalid("the part is too long"));
    }
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((tag, bytes))
}

pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
