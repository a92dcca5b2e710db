//! `docs/protocol.md` against the code: a changed number must be changed on the page too.

use landfall_protocol::frame::{encode, entry_flags, entry_kind, features};
use landfall_protocol::{Code, NackClass, limits};

use crate::examples::{self, name_of};

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// Whether a table of the page has a row that begins with these cells.
fn has_row(cells: &[&str]) -> bool {
    PAGE.lines().filter(|line| line.starts_with('|')).any(|line| {
        let mut found = line.split('|').skip(1).map(str::trim);
        cells.iter().all(|cell| found.next() == Some(cell))
    })
}

#[track_caller]
fn assert_row(cells: &[&str]) {
    assert!(has_row(cells), "docs/protocol.md has no row | {} |", cells.join(" | "));
}

#[test]
fn every_frame_is_in_the_page_with_its_number() {
    for (_, frame) in examples::all() {
        let message = encode(&frame);
        let kind = u16::from_le_bytes([message[0], message[1]]).to_string();
        let name = name_of(&frame);
        assert_row(&[&kind, &format!("`{name}`")]);
        assert!(PAGE.contains(&format!("### {name} ({kind})")), "no section for {name}");
    }
}

#[test]
fn every_code_is_in_the_page_with_its_number_and_name() {
    for code in Code::ALL {
        let name = code.name().unwrap();
        assert_row(&[&code.0.to_string(), &format!("`{name}`")]);
    }
}

#[test]
fn classes_kinds_and_flags_are_in_the_page_with_their_numbers() {
    for (name, class) in [
        ("retry after", NackClass::RETRY_AFTER),
        ("reconcile", NackClass::RECONCILE),
        ("refused", NackClass::REFUSED),
    ] {
        assert_row(&[&class.0.to_string(), name]);
    }
    for (name, kind) in [
        ("change", entry_kind::CHANGE),
        ("snapshot", entry_kind::SNAPSHOT),
        ("tombstone", entry_kind::TOMBSTONE),
        ("grant", entry_kind::GRANT),
        ("attachment reference", entry_kind::ATTACHMENT),
        ("sealed", entry_kind::SEALED),
    ] {
        assert_row(&[&kind.to_string(), name]);
    }
    assert_row(&[&entry_flags::MUST_UNDERSTAND.to_string(), "must understand"]);
    assert_row(&[&entry_flags::ECHO.to_string(), "echo"]);
    assert_row(&[&entry_flags::PARTS.to_string(), "parts"]);
    assert_row(&[&entry_flags::SECOND_ROOT.to_string(), "second root"]);
    for (name, bit) in [
        ("snapshots", features::SNAPSHOTS),
        ("reconcile", features::RECONCILE),
        ("filters", features::FILTERS),
        ("entries", features::ENTRIES),
        ("ephemeral", features::EPHEMERAL),
        ("resend", features::RESEND),
    ] {
        assert_row(&[&bit.to_string(), name]);
    }
}

/// A number in the page's format: `4 MiB`, `3,968 KiB`, `1,024`.
fn written(value: u64, bytes: bool) -> String {
    const KIB: u64 = 1_024;
    const MIB: u64 = KIB * KIB;
    match value {
        _ if bytes && value.is_multiple_of(MIB) => format!("{} MiB", grouped(value / MIB)),
        _ if bytes && value.is_multiple_of(KIB) => format!("{} KiB", grouped(value / KIB)),
        _ if bytes => format!("{} bytes", grouped(value)),
        _ => grouped(value),
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap())
        .collect();
    groups.join(",")
}

#[test]
fn the_limits_of_a_document_are_in_the_page() {
    assert_row(&["`DOCUMENT_BYTES`", &written(limits::DOCUMENT_BYTES, true)]);
    assert_row(&["`DOCUMENT_LOCAL_BYTES`", &written(limits::DOCUMENT_LOCAL_BYTES, true)]);
}

#[test]
fn every_limit_of_the_wire_is_in_the_page() {
    let bytes = [
        ("MESSAGE_BYTES", limits::MESSAGE_BYTES),
        ("FRAME_HEADER_BYTES", limits::FRAME_HEADER_BYTES),
        ("CHANGE_BYTES", limits::CHANGE_BYTES),
        ("CHANGE_INFLATED_BYTES", limits::CHANGE_INFLATED_BYTES),
        ("ACTOR_BYTES", limits::ACTOR_BYTES),
        ("SPACE_NAME_BYTES", limits::SPACE_NAME_BYTES),
        ("TEXT_BYTES", limits::TEXT_BYTES),
        ("TOKEN_BYTES", limits::TOKEN_BYTES),
        ("AUTHOR_BYTES", limits::AUTHOR_BYTES),
        ("PUSH_INFLATED_BYTES", limits::PUSH_INFLATED_BYTES),
        ("PUSH_TARGET_BYTES", limits::PUSH_TARGET_BYTES),
        ("RESEND_RATE", limits::RESEND_RATE as usize),
        ("RESEND_BURST", limits::RESEND_BURST as usize),
        ("RESEND_LEAST_BYTES", limits::RESEND_LEAST_BYTES as usize),
        ("PUSH_WINDOW_BYTES", limits::PUSH_WINDOW_BYTES),
        ("ENTRIES_TARGET_BYTES", limits::ENTRIES_TARGET_BYTES),
        ("STORING_BYTES", limits::STORING_BYTES),
        ("RING_BYTES", limits::RING_BYTES),
        ("COMMIT_BYTES", limits::COMMIT_BYTES),
        ("SNAPSHOT_INLINE_BYTES", limits::SNAPSHOT_INLINE_BYTES),
        ("PART_BYTES", limits::PART_BYTES),
        ("WINDOWS_BYTES", limits::WINDOWS_BYTES),
        ("SNAPSHOT_BYTES", limits::SNAPSHOT_BYTES),
        ("DOCUMENT_INFLATED_BYTES", limits::DOCUMENT_INFLATED_BYTES),
        ("DOCUMENT_TEXT_BYTES", limits::DOCUMENT_TEXT_BYTES as usize),
        ("SNAPSHOT_WINDOW_BYTES", limits::SNAPSHOT_WINDOW_BYTES),
        ("EPHEMERAL_BYTES", limits::EPHEMERAL_BYTES),
        ("EPHEMERAL_NAME_BYTES", limits::EPHEMERAL_NAME_BYTES),
        ("REPO_MESSAGE_BYTES", limits::REPO_MESSAGE_BYTES),
        ("REPO_TEXT_BYTES", limits::REPO_TEXT_BYTES),
        ("REPO_CHANGES_BYTES", limits::REPO_CHANGES_BYTES),
        ("REPO_LIVE_BYTES", limits::REPO_LIVE_BYTES),
        ("REPO_WISH_BYTES", limits::REPO_WISH_BYTES),
        ("REPO_LIVE_OVERHEAD_BYTES", limits::REPO_LIVE_OVERHEAD_BYTES),
        ("REPO_DEFERRED_BYTES", limits::REPO_DEFERRED_BYTES),
        ("REPO_KEPT_BYTES", limits::REPO_KEPT_BYTES),
    ];
    for (name, value) in bytes {
        assert_row(&[&format!("`{name}`"), &written(value as u64, true)]);
    }
}

#[test]
fn every_count_of_the_wire_is_in_the_page() {
    let counts = [
        ("CHANGE_OPERATIONS", limits::CHANGE_OPERATIONS),
        ("CHANGE_DEPENDENCIES", limits::CHANGE_DEPENDENCIES as u64),
        ("CHANGE_OTHER_ACTORS", limits::CHANGE_OTHER_ACTORS as u64),
        ("OPERATION_COUNTER", limits::OPERATION_COUNTER),
        ("COUNTER_HOLE", limits::COUNTER_HOLE),
        ("DOCUMENT_CHANGES", limits::DOCUMENT_CHANGES),
        ("DOCUMENT_CHANGES_FREE", limits::DOCUMENT_CHANGES_FREE),
        ("DOCUMENT_CHANGES_PER_BYTE", limits::DOCUMENT_CHANGES_PER_BYTE),
        ("DOCUMENT_OPERATIONS", limits::DOCUMENT_OPERATIONS),
        ("DOCUMENT_OPERATIONS_FREE", limits::DOCUMENT_OPERATIONS_FREE),
        ("DOCUMENT_OPERATIONS_PER_BYTE", limits::DOCUMENT_OPERATIONS_PER_BYTE),
        ("DOCUMENT_HEADS", limits::DOCUMENT_HEADS as u64),
        ("MERGED_HEADS", limits::MERGED_HEADS as u64),
        ("HEADS_PAGE", limits::HEADS_PAGE as u64),
        ("HEADS_TOLD", limits::HEADS_TOLD as u64),
        ("SESSION_UPLOAD_HEADS", limits::SESSION_UPLOAD_HEADS as u64),
        ("FETCH_HASHES", limits::FETCH_HASHES as u64),
        ("DOCUMENT_CLOCK_ENTRIES", limits::DOCUMENT_CLOCK_ENTRIES),
        ("SEQUENCE", limits::SEQUENCE),
        ("HELLO_VERSIONS", limits::HELLO_VERSIONS as u64),
        ("SUBSCRIPTIONS", limits::SUBSCRIPTIONS as u64),
        ("SESSION_FILTER_DOCUMENTS", limits::SESSION_FILTER_DOCUMENTS as u64),
        ("SESSION_OWN_RANGES", limits::SESSION_OWN_RANGES as u64),
        ("OUTBOX_PAGES", limits::OUTBOX_PAGES as u64),
        ("FRUITLESS_QUESTIONS", u64::from(limits::FRUITLESS_QUESTIONS)),
        ("DRIFTED_DOCUMENTS", limits::DRIFTED_DOCUMENTS as u64),
        ("CHECK_TRIES", u64::from(limits::CHECK_TRIES)),
        ("PUSH_CHANGES", limits::PUSH_CHANGES as u64),
        ("PUSHES_IN_FLIGHT", limits::PUSHES_IN_FLIGHT as u64),
        ("ENTRIES_COUNT", limits::ENTRIES_COUNT as u64),
        ("OWN_RANGES", limits::OWN_RANGES as u64),
        ("BRANCHES", limits::BRANCHES as u64),
        ("BRANCH_ENTRIES", limits::BRANCH_ENTRIES as u64),
        ("FETCH_DOCUMENTS", limits::FETCH_DOCUMENTS as u64),
        ("FILTER_DOCUMENTS", limits::FILTER_DOCUMENTS as u64),
        ("QUERIES", limits::QUERIES as u64),
        ("RESEND_CHANGES", limits::RESEND_CHANGES as u64),
        ("RECENT_ENTRIES", limits::RECENT_ENTRIES),
        ("EPHEMERAL_SOURCES", limits::EPHEMERAL_SOURCES as u64),
        ("REPO_LIST", limits::REPO_LIST as u64),
        ("REPO_DOCUMENTS", limits::REPO_DOCUMENTS as u64),
        ("REPO_WHOLE_CHANGES", u64::from(limits::REPO_WHOLE_CHANGES)),
        ("REPO_RECENT", limits::REPO_RECENT as u64),
        ("REPO_FEW_HEADS", limits::REPO_FEW_HEADS as u64),
        ("REPO_ASKS", u64::from(limits::REPO_ASKS)),
        ("REPO_REFUSED", limits::REPO_REFUSED as u64),
        ("REPO_NEEDS", limits::REPO_NEEDS as u64),
        ("REPO_NEEDS_OF", limits::REPO_NEEDS_OF as u64),
        ("DEFERRED_CHANGES", limits::DEFERRED_CHANGES as u64),
        ("SYNC_HASHES", limits::SYNC_HASHES as u64),
        ("SYNC_HAVES", limits::SYNC_HAVES as u64),
        ("SYNC_CHUNKS", limits::SYNC_CHUNKS as u64),
        ("SYNC_PROBES", limits::SYNC_PROBES),
    ];
    for (name, value) in counts {
        assert_row(&[&format!("`{name}`"), &written(value, false)]);
    }
}

/// A new limit must be in the lists of these tests, or be declared not to be a limit of the wire.
#[test]
fn every_limit_of_automerge_repo_sessions_is_tested() {
    let limits = include_str!("../../src/limits.rs");
    let names = limits.lines().filter_map(|line| line.strip_prefix("pub const "));
    let names = names.filter_map(|line| line.split(':').next());
    let ours = names.filter(|name| name.starts_with("REPO_") || name.starts_with("SYNC_"));
    let tests = include_str!("documented.rs");
    let missing: Vec<&str> =
        ours.filter(|name| !tests.contains(&format!("(\"{name}\","))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// Each type of message that is read or written has its row.
#[test]
fn every_message_of_automerge_repo_is_in_the_page() {
    let read = include_str!("../../src/automerge_repo/message/read.rs");
    let (_, arms) = read.split_once("Ok(match kind {").unwrap();
    let (arms, _) = arms.split_once("kind => Message::Unknown").unwrap();
    let arms = arms.lines().filter_map(|line| line.trim().strip_prefix('"'));
    let kinds: Vec<&str> =
        arms.filter_map(|line| line.split_once("\" => ")).map(|(k, _)| k).collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    kinds.iter().for_each(|kind| assert_row(&[&format!("`{kind}`")]));
}

#[test]
fn every_time_of_the_wire_is_in_the_page() {
    for (name, value) in [
        ("PING_AFTER", limits::PING_AFTER),
        ("DROP_AFTER", limits::DROP_AFTER),
        ("PROBE", limits::PROBE),
        ("HANDSHAKE", limits::HANDSHAKE),
        ("RECONNECT_FIRST", limits::RECONNECT_FIRST),
        ("RECONNECT_MOST", limits::RECONNECT_MOST),
        ("RETRY_LEAST", limits::RETRY_LEAST),
        ("RETRY_MOST", limits::RETRY_MOST),
        ("RECENT_AGE", limits::RECENT_AGE),
        ("SNAPSHOT_GRACE", limits::SNAPSHOT_GRACE),
        ("REPO_REQUEST_WAIT", limits::REPO_REQUEST_WAIT),
        ("REPO_PACE", limits::REPO_PACE),
        ("REPO_UNANSWERED", limits::REPO_UNANSWERED),
    ] {
        let written = match value.subsec_millis() {
            0 => format!("{} s", value.as_secs()),
            _ => format!("{} ms", value.as_millis()),
        };
        assert_row(&[&format!("`{name}`"), &written]);
    }
}
