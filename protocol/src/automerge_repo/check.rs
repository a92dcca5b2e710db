//! The preflight of a change from an automerge-repo client.
//!
//! A malformed change ends its session. A valid change beyond a size limit does not: its author
//! would reconnect and send it again and again, and its other documents would wait. That change is
//! rejected, with all changes that depend on it.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

use crate::admission::{CheckedChange, FormError, Work, change_hash, preflight_within};
use crate::ids::ChangeHash;
use crate::limits;

/// Magic and checksum.
const PREFIX: usize = 8;
const CHANGE: u8 = 1;
const DEFLATED_CHANGE: u8 = 2;

/// A well-formed change.
#[derive(Debug, Clone)]
pub enum Inspected {
    /// It passed the preflight.
    Sound(CheckedChange),
    /// It exceeds a size limit.
    TooLarge(ChangeHash, FormError),
}

/// Checks one chunk. automerge-repo's clients send changes uncompressed; one that exceeds the limit
/// is deflated, as automerge itself would store it. The work is counted even if the check fails.
///
/// # Errors
/// If the bytes are not a change.
pub fn inspect(chunk: &[u8], work: &mut Work) -> Result<Inspected, FormError> {
    let is_plain = chunk.get(PREFIX) == Some(&CHANGE);
    let may_shrink = chunk.len() > limits::CHANGE_BYTES
        && chunk.len() <= limits::CHANGE_INFLATED_BYTES
        && is_plain;
    let shrunk =
        |work: &mut Work| deflated(chunk).map(|deflated| preflight_within(&deflated, None, work));
    let checked = match may_shrink.then(|| shrunk(work)).flatten() {
        Some(checked) => checked,
        None => preflight_within(chunk, None, work),
    };
    // A change with many dependencies has a lower byte limit.
    let checked = match checked {
        Err(FormError::TooLarge { .. }) if is_plain && !may_shrink => {
            shrunk(work).unwrap_or_else(|| preflight_within(chunk, None, work))
        }
        checked => checked,
    };
    match checked {
        Ok(Some(change)) => Ok(Inspected::Sound(change)),
        // `None` is returned only for a bounded check.
        Ok(None) => Err(FormError::Refused { reason: "it was not checked".to_owned() }),
        Err(error) if error.is_size() && is_plain => {
            // The hash covers everything after the checksum.
            let hash = Sha256::digest(chunk.get(PREFIX..).unwrap_or_default());
            Ok(Inspected::TooLarge(ChangeHash(hash.into()), error))
        }
        // The hash of a deflated change is known once it is inflated, if it inflates within the
        // limit.
        Err(error) if error.is_size() => match change_hash(chunk) {
            Ok(hash) => Ok(Inspected::TooLarge(hash, error)),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// As [`inspect`]; if it takes more than `most` work, returns `None` and counts nothing. A change
/// beyond a size limit always does.
///
/// # Errors
/// If the bytes are not a change.
pub fn inspect_within(
    chunk: &[u8],
    most: Work,
    work: &mut Work,
) -> Result<Option<Inspected>, FormError> {
    let mut own = *work;
    let checked = match preflight_within(chunk, Some(most), &mut own) {
        Err(error) if error.is_size() => return Ok(None),
        checked => checked.map(|change| change.map(Inspected::Sound)),
    };
    if !matches!(checked, Ok(None)) {
        *work = own;
    }
    checked
}

/// The same change as a chunk of type 2.
fn deflated(chunk: &[u8]) -> Option<Vec<u8>> {
    let length = chunk.get(PREFIX + 1..)?.iter().position(|byte| byte & 0x80 == 0)?;
    let body = chunk.get(PREFIX + 2 + length..)?;
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).ok()?;
    let short = encoder.finish().ok()?;
    let mut out = Vec::with_capacity(PREFIX + 11 + short.len());
    out.extend_from_slice(chunk.get(..PREFIX)?);
    out.push(DEFLATED_CHANGE);
    super::sync::write_prefixed(&mut out, &short);
    Some(out)
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable;
    use automerge::{Automerge, ROOT};

    use super::*;

    fn change(value: Vec<u8>) -> (Vec<u8>, ChangeHash) {
        let mut document = Automerge::new();
        let mut tx = document.transaction();
        tx.put(ROOT, "image", value).unwrap();
        tx.commit();
        let change = document.get_changes(&[]).remove(0);
        (change.raw_bytes().to_vec(), change.hash())
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (state >> 33) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn exhausted_counters_are_too_large_in_every_encoding() {
        let mut document = Automerge::new();
        let mut tx = document.transaction();
        tx.put(ROOT, "k", "long enough to be deflated ".repeat(40)).unwrap();
        tx.commit();
        let mut change = document.get_changes(&[]).remove(0).decode();
        change.start_op = ((1u64 << 31) + 5).try_into().unwrap();
        change.hash = None;
        let mut change = automerge::Change::from(change);
        let plain = change.raw_bytes().to_vec();
        let deflated = change.bytes().to_vec();
        assert_eq!((plain[PREFIX], deflated[PREFIX]), (CHANGE, DEFLATED_CHANGE));
        for chunk in [plain, deflated] {
            let Ok(Inspected::TooLarge(hash, error)) = inspect(&chunk, &mut Work::default()) else {
                panic!("accepted")
            };
            assert_eq!(hash, change.hash());
            assert!(matches!(error, FormError::Counter { .. }), "{error}");
        }
    }

    #[test]
    fn a_long_change_is_valid_only_if_it_deflates_below_the_limit() {
        let (chunk, hash) = change(vec![7; 5_000_000]);
        let Ok(Inspected::Sound(sound)) = inspect(&chunk, &mut Work::default()) else {
            panic!("it was not accepted")
        };
        assert_eq!(sound.hash, hash);
        assert!(sound.bytes.len() < 50_000);
        let (chunk, hash) = change(noise(5_000_000));
        let Ok(Inspected::TooLarge(found, error)) = inspect(&chunk, &mut Work::default()) else {
            panic!("accepted")
        };
        assert_eq!(found, hash);
        assert!(matches!(error, FormError::TooLarge { .. }), "{error}");
        let (mut chunk, _) = change(noise(1_000));
        chunk[20] ^= 1;
        assert!(inspect(&chunk, &mut Work::default()).is_err());
    }
}
