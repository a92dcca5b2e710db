//! Checks whether a write-ahead log left by another process is complete. SQLite treats a log with an
//! invalid header as empty, and stops at the first invalid frame. It reports neither, because a power
//! cut leaves the same state. This module detects what can only be damage, before SQLite opens the file
//! and overwrites it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::files::beside;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const VERSION: u32 = 3_007_000;

/// How a write-ahead log is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalDamage {
    /// Its header is invalid: SQLite ignores the whole log.
    #[error(
        "the header of the write-ahead log is damaged: its content, up to {frames} page(s) of the \
         last commits, is lost"
    )]
    Header {
        /// How many pages the file can hold.
        frames: u64,
    },
    /// A frame is invalid, and committed frames follow it.
    #[error(
        "the write-ahead log is damaged behind {whole} whole page(s): the commits after it, at \
         least {commits}, are lost"
    )]
    Frame {
        /// How many valid pages precede it.
        whole: u64,
        /// How many commits end after it.
        commits: u64,
    },
    /// The file ends before the last commit of the process that wrote it.
    #[error(
        "the write-ahead log is cut short: it has {whole} of {of} pages; the last commits are lost"
    )]
    Cut {
        /// How many valid pages there are.
        whole: u64,
        /// How many pages there were.
        of: u64,
    },
}

/// Checks the write-ahead log beside a database that no process has open. `None` if it is complete, or
/// if a power cut may have left it in this state.
///
/// # Errors
/// The file system's.
pub fn wal_damage(database: &Path) -> io::Result<Option<WalDamage>> {
    let file = match File::open(beside(database, "-wal")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let index = Index::read(&beside(database, "-shm"));
    if index.as_ref().is_some_and(|index| index.backfilled >= index.frames) {
        // All of it was checkpointed into the database.
        return Ok(None);
    }
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let Some(header) = Header::read(&mut reader)? else {
        let of = index.map(|index| u64::from(index.frames));
        return bad_header(length, of, &mut reader);
    };
    let found = walk(&mut reader, &header)?;
    let index = index.filter(|index| index.salts == header.salts);
    Ok(match index {
        Some(index) if u64::from(index.frames) > found.whole && found.commits == 0 => {
            Some(WalDamage::Cut { whole: found.whole, of: u64::from(index.frames) })
        }
        Some(index) if u64::from(index.frames) > found.whole => {
            Some(WalDamage::Frame { whole: found.whole, commits: found.commits })
        }
        // A power cut may have cut the last commit, which was not fsynced yet.
        _ if found.commits > 1 => {
            Some(WalDamage::Frame { whole: found.whole, commits: found.commits })
        }
        _ => None,
    })
}

fn bad_header(length: u64, of: Option<u64>, rest: &mut impl Read) -> io::Result<Option<WalDamage>> {
    // Blocks that were never written read as zeros, and a power cut may leave a file of them.
    let is_empty = of.is_none() && is_zero(rest)?;
    let frames = of.unwrap_or(length / (FRAME_HEADER as u64 + 4096));
    Ok((!is_empty).then_some(WalDamage::Header { frames }))
}

fn is_zero(rest: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(true),
            read if buffer[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// The header of a write-ahead log.
struct Header {
    page: usize,
    salts: [u8; 8],
    is_big_endian: bool,
    sum: (u32, u32),
}

impl Header {
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER];
        if !fill(reader, &mut bytes)? {
            return Ok(None);
        }
        let is_big_endian = match word(&bytes, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return Ok(None),
        };
        let page = word(&bytes, 8) as usize;
        let sum = sum((0, 0), &bytes[..24], is_big_endian);
        let is_whole = word(&bytes, 4) == VERSION
            && page.is_power_of_two()
            && (512..=65_536).contains(&page)
            && sum == (word(&bytes, 24), word(&bytes, 28));
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        Ok(is_whole.then_some(Self { page, salts, is_big_endian, sum }))
    }
}

/// The result of reading a write-ahead log.
struct Walked {
    /// The number of valid frames from the start.
    whole: u64,
    /// The number of commits after them in the same run of the log: frames of an earlier run have other
    /// salts.
    commits: u64,
}

fn walk(reader: &mut impl Read, header: &Header) -> io::Result<Walked> {
    let mut frame = vec![0; FRAME_HEADER + header.page];
    let (mut walked, mut running, mut is_whole) =
        (Walked { whole: 0, commits: 0 }, header.sum, true);
    while fill(reader, &mut frame)? {
        let is_of_this = frame[8..16] == header.salts;
        if is_whole {
            running = sum(running, &frame[..8], header.is_big_endian);
            running = sum(running, &frame[FRAME_HEADER..], header.is_big_endian);
            is_whole = is_of_this && running == (word(&frame, 16), word(&frame, 20));
        }
        if is_whole {
            walked.whole += 1;
        } else if is_of_this && word(&frame, 4) != 0 {
            walked.commits += 1;
        }
    }
    Ok(walked)
}

/// The index of a write-ahead log in shared memory, as the process that wrote the log left it.
struct Index {
    frames: u32,
    backfilled: u32,
    salts: [u8; 8],
}

/// Bytes of the index's header, of which there are two copies.
const INDEX_HEADER: usize = 48;

impl Index {
    /// `None` if there is none, or if it is older than the last start of the system: SQLite does not
    /// sync the index to disk, so after a power cut it may be older or newer than the log.
    fn read(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.modified().ok()? < started()? {
            return None;
        }
        let mut bytes = [0; 2 * INDEX_HEADER + 4];
        File::open(path).ok()?.read_exact(&mut bytes).ok()?;
        let (one, rest) = bytes.split_at(INDEX_HEADER);
        let native =
            |at: usize| one.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let is_big_endian = cfg!(target_endian = "big");
        let is_whole = one == &rest[..INDEX_HEADER]
            && native(0) == Some(VERSION)
            && sum((0, 0), &one[..40], is_big_endian) == (native(40)?, native(44)?);
        let last = &rest[INDEX_HEADER..];
        let backfilled = u32::from_ne_bytes([last[0], last[1], last[2], last[3]]);
        let mut salts = [0; 8];
        salts.copy_from_slice(&one[32..40]);
        is_whole.then_some(Self { frames: native(16)?, backfilled, salts })
    }
}

/// The time at which the system started; `None` where the system does not report it.
fn started() -> Option<SystemTime> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    SystemTime::now().checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
}

/// SQLite's checksum over pairs of words.
fn sum((mut one, mut two): (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    let read =
        |b: [u8; 4]| if is_big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
    for pair in bytes.as_chunks::<8>().0 {
        one = one.wrapping_add(read([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(two);
        two = two.wrapping_add(read([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(one);
    }
    (one, two)
}

/// A big-endian word.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Fills a buffer; false if the file ends first.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a database as a killed process leaves it, with five commits in its write-ahead log.
    fn killed() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live.db");
        let conn = rusqlite::Connection::open(&live).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.execute_batch("CREATE TABLE t (x BLOB)").unwrap();
        conn.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
        for number in 0..5 {
            conn.execute("INSERT INTO t VALUES (?1)", [vec![number; 9_000]]).unwrap();
        }
        let left = folder.path().join("left.db");
        for suffix in ["", "-wal", "-shm"] {
            fs::copy(beside(&live, suffix), beside(&left, suffix)).unwrap();
        }
        (folder, left)
    }

    fn change(database: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let path = beside(database, "-wal");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }

    const FRAME: usize = FRAME_HEADER + 4096;

    #[test]
    fn the_wal_of_a_killed_process_is_undamaged() {
        let (_folder, left) = killed();
        assert_eq!(wal_damage(&left).unwrap(), None);
        fs::remove_file(beside(&left, "-shm")).unwrap();
        assert_eq!(wal_damage(&left).unwrap(), None);
        // A power cut: the last commit is incomplete.
        change(&left, |bytes| bytes.truncate(bytes.len() - FRAME));
        assert_eq!(wal_damage(&left).unwrap(), None);
        change(&left, Vec::clear);
        assert_eq!(wal_damage(&left).unwrap(), None);
        change(&left, |bytes| bytes.resize(40_000, 0));
        assert_eq!(wal_damage(&left).unwrap(), None, "never written");
        fs::remove_file(beside(&left, "-wal")).unwrap();
        assert_eq!(wal_damage(&left).unwrap(), None);
    }

    #[test]
    fn a_damaged_header_is_reported_with_and_without_the_index() {
        for at in [0, 5, 9, 17, 25, 31] {
            let (_folder, left) = killed();
            change(&left, |bytes| bytes[at] ^= 4);
            let found = wal_damage(&left).unwrap();
            assert!(matches!(found, Some(WalDamage::Header { frames: 10.. })), "{at}: {found:?}");
            fs::remove_file(beside(&left, "-shm")).unwrap();
            let found = wal_damage(&left).unwrap();
            assert!(matches!(found, Some(WalDamage::Header { frames: 10.. })), "{at}: {found:?}");
        }
    }

    #[test]
    fn a_damaged_frame_is_reported_if_commits_follow_it() {
        for at in
            [HEADER + FRAME + 5, HEADER + FRAME + 9, HEADER + FRAME + 17, HEADER + FRAME + 900]
        {
            let (_folder, left) = killed();
            change(&left, |bytes| bytes[at] ^= 4);
            let found = wal_damage(&left).unwrap();
            let is_told =
                |found: &_| matches!(found, Some(WalDamage::Frame { whole: 1, commits: 4.. }));
            assert!(is_told(&found), "{at}: {found:?}");
            fs::remove_file(beside(&left, "-shm")).unwrap();
            let found = wal_damage(&left).unwrap();
            assert!(is_told(&found), "{at}: {found:?}");
        }
    }

    #[test]
    fn a_truncated_log_is_detected_by_its_index() {
        let (_folder, left) = killed();
        let whole = |bytes: &Vec<u8>| (bytes.len() - HEADER) / FRAME;
        let mut all = 0;
        change(&left, |bytes| {
            all = whole(bytes) as u64;
            bytes.truncate(HEADER + 6 * FRAME + 100);
        });
        let cut = WalDamage::Cut { whole: 6, of: all };
        assert_eq!(wal_damage(&left).unwrap(), Some(cut));
        // An index from before the last start of the system is ignored.
        let index = File::options().write(true).open(beside(&left, "-shm")).unwrap();
        index.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(wal_damage(&left).unwrap(), None);
    }
}
