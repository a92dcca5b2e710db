//! The output of the commands `store …`, for people or programs.

use std::path::Path;

use landfall::admin::{Finding, InspectedDocument, InspectedSpace, Inspection, Repaired};
use serde_json::{Value, json};

use crate::term::{count, faint, say, strong, thousands};

/// A length, for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => count(bytes, "byte"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

pub(super) fn inspection(store: &Path, found: &Inspection) {
    say(format!(
        "{}: {}, of which {} free",
        strong(store.display()),
        size(found.bytes),
        size(found.free_bytes)
    ));
    for space in &found.spaces {
        say(format!(
            "\nspace {}: {}, {} deleted, {} deferred",
            strong(&space.name),
            count(space.documents.len() as u64, "document"),
            thousands(space.deleted),
            count(space.deferred, "entry"),
        ));
        for link in &space.upstreams {
            let in_use = if link.in_use { "" } else { ", not the current relay" };
            let pending = link.pending;
            say(format!(
                "relay {}{in_use}: {} ({}) not acknowledged",
                link.upstream,
                count(pending.changes, "change"),
                size(pending.bytes),
            ));
        }
        say(faint("   changes compacted      tail     bytes  actors  heads  document"));
        space.documents.iter().map(document).for_each(say);
    }
}

fn document(document: &InspectedDocument) -> String {
    format!(
        "{:>10}{:>10}{:>10}{:>10}{:>8}{:>7}  {}{}",
        document.compacted_changes + document.tail_changes,
        document.compacted_changes,
        document.tail_changes,
        document.snapshot_bytes + document.tail_bytes,
        document.actors,
        document.heads,
        document.document,
        document
            .compaction_failed
            .as_ref()
            .map_or(String::new(), |why| format!(" (not compacted: {why})")),
    )
}

pub(super) fn inspection_json(store: &Path, found: &Inspection) -> Value {
    json!({
        "store": store.display().to_string(),
        "bytes": found.bytes,
        "freeBytes": found.free_bytes,
        "spaces": found.spaces.iter().map(space_json).collect::<Vec<_>>(),
    })
}

fn space_json(space: &InspectedSpace) -> Value {
    let document = |document: &InspectedDocument| {
        json!({
            "document": document.document.to_string(),
            "tailChanges": document.tail_changes,
            "tailBytes": document.tail_bytes,
            "compactedChanges": document.compacted_changes,
            "snapshotBytes": document.snapshot_bytes,
            "heads": document.heads,
            "actors": document.actors,
            "compactionFailed": document.compaction_failed,
        })
    };
    let upstreams = space.upstreams.iter().map(|link| {
        json!({
            "upstream": link.upstream.to_string(),
            "inUse": link.in_use,
            "pending": { "changes": link.pending.changes, "bytes": link.pending.bytes },
        })
    });
    json!({
        "name": space.name.to_string(),
        "last": space.last,
        "deleted": space.deleted,
        "deferred": space.deferred,
        "upstreams": upstreams.collect::<Vec<_>>(),
        "documents": space.documents.iter().map(document).collect::<Vec<_>>(),
    })
}

pub(super) fn findings(found: &[Finding]) {
    found.iter().for_each(say);
    if found.is_empty() {
        say("clean");
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "space": finding.space.as_ref().map(ToString::to_string),
        "document": finding.document.map(|document| document.to_string()),
        "what": finding.fault.to_string(),
    })
}

pub(super) fn findings_json(found: &[Finding]) -> Value {
    let findings: Vec<Value> = found.iter().map(finding_json).collect();
    json!({ "clean": found.is_empty(), "findings": findings })
}

pub(super) fn repaired(report: &Repaired) {
    for finding in &report.repaired {
        say(format!("repaired: {finding}"));
    }
    for (space, document, changes) in &report.dropped {
        say(format!(
            "space {space}: document {document}: {} removed, to be fetched from the relay again",
            count(*changes, "change")
        ));
    }
    for finding in &report.left {
        say(format!("not repaired: {finding}"));
    }
    if report.left.is_empty() {
        say("clean");
    }
}

pub(super) fn repaired_json(report: &Repaired) -> Value {
    let dropped = report.dropped.iter().map(|(space, document, changes)| {
        let (space, document) = (space.to_string(), document.to_string());
        json!({ "space": space, "document": document, "changes": changes })
    });
    let repaired: Vec<Value> = report.repaired.iter().map(finding_json).collect();
    let left: Vec<Value> = report.left.iter().map(finding_json).collect();
    json!({
        "clean": report.left.is_empty(),
        "repaired": repaired,
        "dropped": dropped.collect::<Vec<_>>(),
        "findings": left,
    })
}
