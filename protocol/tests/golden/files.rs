//! The golden files: today's encoding equals the encoding at the frame's release.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use landfall_protocol::frame::{Frame, decode, encode};
use landfall_protocol::limits::FRAME_HEADER_BYTES;

use crate::examples::{self, KINDS, name_of};

/// Bytes of an `Entries` frame before its first entry, as `docs/protocol.md` lays them out.
const ENTRIES_PREFIX: usize = FRAME_HEADER_BYTES + 4 + 8 + 8 + 16 + 8 + 8;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

/// Sixteen bytes a line, so that a diff shows where the bytes differ.
fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let pairs: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", pairs.join(" ")).unwrap();
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[allow(clippy::disallowed_methods, reason = "the person who runs the test asks for new files")]
fn blessing() -> bool {
    std::env::var_os("LANDFALL_BLESS").is_some()
}

fn compare(name: &str, bytes: &[u8]) {
    let path = path(name);
    if blessing() {
        fs::write(&path, to_hex(bytes)).unwrap();
    }
    let golden = fs::read_to_string(&path);
    let golden = golden.unwrap_or_else(|error| panic!("{name}: {error}; see golden.rs"));
    assert_eq!(to_hex(bytes), golden, "{name}: a released frame never changes");
}

#[test]
fn the_encoding_of_every_frame_is_stable() {
    for (name, frame) in examples::all() {
        compare(name, &encode(&frame));
    }
}

#[test]
fn every_golden_frame_reads_back_as_its_example() {
    for (name, frame) in examples::all() {
        let golden = fs::read_to_string(path(name)).unwrap();
        assert_eq!(decode(&from_hex(&golden)).unwrap(), frame, "{name}");
    }
}

#[test]
fn every_kind_has_an_example_and_every_file_is_one() {
    let examples = examples::all();
    let kinds: BTreeSet<&str> = examples.iter().map(|(_, frame)| name_of(frame)).collect();
    assert_eq!(kinds.len(), KINDS);
    let mut expected: BTreeSet<String> =
        examples.iter().map(|(name, _)| format!("{name}.hex")).collect();
    expected.insert("entry.hex".into());
    let folder = fs::read_dir(path("hello").parent().unwrap()).unwrap();
    let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = names.filter(|name| name.ends_with(".hex")).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_entry_is_laid_out_as_documented() {
    let entry = examples::entry();
    let message = encode(&examples::entries(vec![entry.clone()]));
    let bytes = &message[ENTRIES_PREFIX..];
    compare("entry", bytes);
    let at = |from: usize, length: usize| &bytes[from..from + length];
    assert_eq!(at(0, 8), entry.offset.0.to_le_bytes());
    assert_eq!(at(8, 16), entry.document.as_bytes());
    assert_eq!(at(24, 2), entry.kind.to_le_bytes());
    assert_eq!(at(26, 2), entry.flags.to_le_bytes());
    assert_eq!(at(28, 32), entry.id);
    assert_eq!(at(60, 8), 2u64.to_le_bytes());
    assert_eq!(at(68, 64), entry.dependencies.concat());
    let author = 68 + 64;
    assert_eq!(at(author, 8), 16u64.to_le_bytes());
    assert_eq!(at(author + 8, 16), entry.author.as_slice());
    assert_eq!(at(author + 24, 8), entry.at_ms.to_le_bytes());
    assert_eq!(at(author + 32, 8), 6u64.to_le_bytes());
    assert_eq!(at(author + 40, 6), b"change");
    assert_eq!(bytes.len(), 92 + 64 + 16 + 6);
}

#[test]
fn values_are_laid_out_as_documented() {
    let hello = encode(&examples::all()[0].1);
    let length = (hello.len() - FRAME_HEADER_BYTES) as u32;
    assert_eq!(hello[..4], [1, 0, 0, 0], "kind and flags, little-endian");
    assert_eq!(hello[4..8], length.to_le_bytes());
    assert_eq!(hello[8..20], [2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0], "a list of two numbers");
    assert_eq!(hello[36], 0, "no token");
    assert_eq!(hello[37..45], 8u64.to_le_bytes(), "a text's length in bytes");
    assert_eq!(&hello[45..], b"golden/1");
    let Some((_, Frame::Subscribe(first))) =
        examples::all().into_iter().find(|(name, _)| *name == "subscribe-first")
    else {
        panic!("no example")
    };
    let subscribe = encode(&Frame::Subscribe(first));
    assert_eq!(subscribe[25..29], [0; 4], "an enum's variant is a u32");
    assert_eq!(subscribe[29..], [0, 0], "two absent options are a byte each");
}
