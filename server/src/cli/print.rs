//! The output of the operator's commands: lines for a person, or one JSON value for a program. JSON fields
//! are only ever added. It must not know how the results were obtained.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landfall_protocol::{ActorId, DocumentId, SpaceName};
use serde_json::{Value, json};

use crate::admin::WriteCounts;
use crate::admin::compact::CompactionReport;
use crate::admin::export::Exported;
use crate::admin::import::Imported;
use crate::admin::import_repo::{Findings, RepoImported};
use crate::admin::restore::Restored;
use crate::admin::verify::{RepairResult, VerifyFindings};
use crate::store::StoreError;
use crate::store::admin::fault::Finding;
use crate::store::admin::inspect::{DocumentReport, SpaceReport, StoreReport};
use crate::store::admin::repair::Repaired;
use crate::store::admin::verify::Verified;

/// Documents per query.
pub(super) const PAGE: usize = 1_000;

/// Standard output, as lines or as JSON.
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints the value or the lines.
    fn print(&self, value: impl FnOnce() -> Value, lines: impl FnOnce() -> Vec<String>) {
        let text = match self.json {
            true => value().to_string(),
            false => lines().join("\n"),
        };
        line(text);
    }

    pub(super) fn store(&self, store: &StoreReport) {
        self.print(
            || store_value(store),
            || {
                let upstream = store.upstream.map_or("none yet".to_owned(), |id| id.to_string());
                let mut lines = vec![
                    format!("relay      {upstream}"),
                    format!(
                        "store      {}, of which {} free",
                        bytes(store.bytes),
                        bytes(store.free_bytes)
                    ),
                ];
                for space in &store.spaces {
                    lines.push(String::new());
                    lines.extend(space_lines(space));
                }
                if store.spaces.is_empty() {
                    lines.push("no spaces".to_owned());
                }
                lines
            },
        );
    }

    /// Prints a space, and its documents page by page.
    pub(super) fn space(
        &self,
        space: &SpaceReport,
        mut page: impl FnMut(Option<DocumentId>) -> Result<Vec<DocumentReport>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut after = None;
        let mut values = Vec::new();
        if !self.json {
            space_lines(space).into_iter().for_each(line);
            line("\n   changes compacted      tail     bytes  actors  document");
        }
        loop {
            let documents = page(after)?;
            let Some(last) = documents.last() else { break };
            after = Some(last.document);
            match self.json {
                true => values.extend(documents.iter().map(document_value)),
                false => documents.iter().map(document_line).for_each(line),
            }
        }
        if self.json {
            let mut value = space_value(space);
            value["list"] = Value::Array(values);
            line(value);
        }
        Ok(())
    }

    pub(super) fn document(&self, document: &DocumentReport, actors: &[(ActorId, u64)]) {
        let value = || {
            let mut value = document_value(document);
            let actor =
                |(actor, last): &(ActorId, u64)| json!({"actor": actor.to_string(), "last": last});
            value["actorList"] = actors.iter().map(actor).collect();
            value
        };
        self.print(value, || document_lines(document, actors));
    }

    pub(super) fn found(&self, found: &VerifyFindings) {
        let value = || {
            let findings: Vec<Value> = found.findings.iter().map(finding_value).collect();
            json!({
                "clean": found.damage == 0,
                "damage": found.damage,
                "checked": verified_value(&found.verified),
                "findings": findings,
            })
        };
        self.print(value, || {
            let mut lines = finding_lines(found);
            lines.push(verified_line(&found.verified));
            lines.extend((found.damage == 0).then(|| "clean".to_owned()));
            lines
        });
    }

    pub(super) fn repaired(&self, repaired: &RepairResult) {
        let RepairResult { before, rounds, after } = repaired;
        let value = || {
            let findings = |found: &VerifyFindings| -> Vec<Value> {
                found.findings.iter().map(finding_value).collect()
            };
            let rounds: Vec<Value> = rounds.iter().map(repaired_value).collect();
            json!({
                "clean": after.damage == 0,
                "damage": after.damage,
                "checked": verified_value(&after.verified),
                "found": findings(before),
                "repairs": rounds,
                "findings": findings(after),
            })
        };
        self.print(value, || {
            let mut lines = finding_lines(before);
            for repaired in rounds {
                lines.push(format!(
                    "repaired: {} recomputed, {} and {} dropped, {} rebuilt",
                    counted(repaired.documents, "document"),
                    counted(repaired.dropped_changes, "change"),
                    counted(repaired.dropped_snapshots, "snapshot"),
                    counted(repaired.indexes.len() as u64, "index"),
                ));
                for space in &repaired.broken {
                    lines.push(format!(
                        "space {space} lost changes: its clients send back those that they have"
                    ));
                }
            }
            lines.extend(finding_lines(after).into_iter().map(|line| format!("still: {line}")));
            lines.push(verified_line(&after.verified));
            lines.extend((after.damage == 0).then(|| "clean".to_owned()));
            lines
        });
    }

    pub(super) fn backup(&self, file: &Path, length: u64) {
        self.print(
            || json!({"file": file.display().to_string(), "bytes": length}),
            || vec![format!("{}: {}", file.display(), bytes(length))],
        );
    }

    pub(super) fn restored(&self, file: &Path, restored: &Restored) {
        let kept = restored.kept.as_ref().map(|kept| kept.display().to_string());
        let value = || {
            json!({
                "file": file.display().to_string(),
                "kept": kept,
                "checked": restored.verified.as_ref().map(verified_value),
            })
        };
        self.print(value, || {
            let mut lines: Vec<String> = restored.verified.iter().map(verified_line).collect();
            lines.push(format!("restored {}", file.display()));
            lines.extend(kept.iter().map(|kept| format!("the previous store is kept as {kept}")));
            lines
        });
    }

    pub(super) fn compacted(&self, report: &CompactionReport) {
        let value = || {
            let failed = |(space, document, reason): &(SpaceName, DocumentId, String)| {
                let (space, document) = (space.to_string(), document.to_string());
                json!({"space": space, "document": document, "reason": reason})
            };
            json!({
                "compacted": report.compacted,
                "changes": report.changes,
                "failed": report.failed.iter().map(failed).collect::<Vec<_>>(),
                "bytesBefore": report.before,
                "bytesAfter": report.after,
            })
        };
        self.print(value, || {
            let failed = report.failed.iter().map(|(space, document, reason)| {
                format!("not compacted: space {space}, document {document}: {reason}")
            });
            let mut lines: Vec<String> = failed.collect();
            let (compacted, changes) = (report.compacted, report.changes);
            let (compacted, changes) = (counted(compacted, "document"), counted(changes, "change"));
            lines.push(format!("{compacted} compacted, with {changes}"));
            let (before, after) = (bytes(report.before), bytes(report.after));
            lines.push(format!("{before} before, {after} after"));
            lines
        });
    }

    pub(super) fn exported(&self, space: &SpaceName, file: &Path, exported: &Exported) {
        let (counts, length) = (exported.counts, exported.bytes);
        let value = || {
            json!({
                "space": space.to_string(),
                "file": file.display().to_string(),
                "bytes": length,
                "documents": counts.documents,
                "tombstones": counts.tombstones,
                "snapshots": counts.snapshots,
                "changes": counts.changes,
            })
        };
        self.print(value, || {
            vec![format!(
                "{}: {} ({} deleted), {}, {}, {}",
                file.display(),
                counted(counts.documents, "document"),
                counts.tombstones,
                counted(counts.snapshots, "snapshot"),
                counted(counts.changes, "change"),
                bytes(length),
            )]
        });
    }

    pub(super) fn imported(&self, imported: &Imported) {
        let written = &imported.written;
        let value = || {
            let refusal = |(document, why): &(DocumentId, String)| json!({"document": document.to_string(), "why": why});
            json!({
                "space": imported.space.to_string(),
                "documents": imported.documents,
                "changes": written.changes,
                "tombstones": written.tombstones,
                "snapshots": written.snapshots,
                "known": written.known,
                "deletedHere": written.deleted_here,
                "refused": written.refused,
                "refusals": written.refusals.iter().map(refusal).collect::<Vec<_>>(),
            })
        };
        self.print(value, || {
            let refusal = |(document, why): &(DocumentId, String)| {
                format!("rejected: document {document}: {why}")
            };
            let mut lines: Vec<String> = written.refusals.iter().map(refusal).collect();
            lines.push(format!(
                "space {}: {} in the file; new here: {}, {}, {}; here already: {}",
                imported.space,
                counted(imported.documents, "document"),
                counted(written.changes, "change"),
                counted(written.snapshots, "snapshot"),
                counted(written.tombstones, "deletion"),
                written.known,
            ));
            if written.deleted_here > 0 {
                let count = written.deleted_here;
                lines.push(format!("{count} not imported: their documents are deleted here"));
            }
            lines
        });
    }

    pub(super) fn deleted(&self, space: &SpaceName, written: &WriteCounts) {
        let (deleted, before) = (written.tombstones, written.known + written.deleted_here);
        let value =
            || json!({"space": space.to_string(), "deleted": deleted, "deletedBefore": before});
        self.print(value, || {
            let mut lines =
                vec![format!("space {space}: deleted {}", counted(deleted, "document"))];
            if before > 0 {
                lines.push(format!("{before} already deleted"));
            }
            lines.push(
                "run `compact` to remove their content and free its space on the disk".to_owned(),
            );
            lines
        });
    }

    pub(super) fn repo_imported(&self, imported: &RepoImported) {
        let written = &imported.written;
        let findings = |findings: &Findings| -> Vec<Value> {
            let one = |(path, why): &(PathBuf, String)| json!({"path": path, "why": why});
            findings.first.iter().map(one).collect()
        };
        let value = || {
            json!({
                "space": imported.space.to_string(),
                "documents": imported.documents,
                "added": imported.added,
                "changes": written.changes,
                "snapshots": written.snapshots,
                "deletedHere": imported.deleted_here,
                "problems": imported.problems.count + written.refused,
                "problemList": findings(&imported.problems),
                "skipped": imported.others.count,
                "skippedList": findings(&imported.others),
            })
        };
        self.print(value, || repo_lines(imported));
    }
}

fn repo_lines(imported: &RepoImported) -> Vec<String> {
    let written = &imported.written;
    let mut lines = findings_lines("skipped", &imported.others);
    lines.extend(findings_lines("not imported", &imported.problems));
    let refusal = |(document, why): &(DocumentId, String)| {
        format!("not imported: document {document}: {why}")
    };
    lines.extend(written.refusals.iter().map(refusal));
    lines.push(format!(
        "space {}: {} in the folder; new here: {} and {} of {}",
        imported.space,
        counted(imported.documents, "document"),
        counted(written.changes, "change"),
        counted(written.snapshots, "snapshot"),
        counted(imported.added, "document"),
    ));
    if imported.deleted_here > 0 {
        let documents = counted(imported.deleted_here, "document");
        lines.push(format!("not imported: {documents}, deleted here"));
    }
    lines
}

fn findings_lines(word: &str, findings: &Findings) -> Vec<String> {
    let one = |(path, why): &(PathBuf, String)| format!("{word}: {}: {why}", path.display());
    let mut lines: Vec<String> = findings.first.iter().map(one).collect();
    let more = findings.count - findings.first.len() as u64;
    lines.extend((more > 0).then(|| format!("{word}: {more} more")));
    lines
}

/// Why some of the output is missing: the first write error.
static MISSING: OnceLock<String> = OnceLock::new();

/// The first write error, if some of the output is missing.
pub(super) fn missing() -> Option<&'static str> {
    MISSING.get().map(String::as_str)
}

pub(super) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", super::escaped(&text.to_string())).and_then(|()| out.flush());
    // A reader that closed the output does not need the rest: not a failure.
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        MISSING.get_or_init(|| error.to_string());
    }
}

/// A number with its noun, of which `one` is the singular.
pub(super) fn counted(number: u64, one: &str) -> String {
    let plural = match one.ends_with('x') {
        _ if number == 1 => "",
        true => "es",
        false => "s",
    };
    format!("{number} {one}{plural}")
}

/// A byte count in a human-readable unit.
fn bytes(count: u64) -> String {
    match count {
        0..10_000 => counted(count, "byte"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

fn store_value(store: &StoreReport) -> Value {
    json!({
        "upstream": store.upstream.map(|upstream| upstream.to_string()),
        "bytes": store.bytes,
        "freeBytes": store.free_bytes,
        "spaces": store.spaces.iter().map(space_value).collect::<Vec<_>>(),
    })
}

fn space_value(space: &SpaceReport) -> Value {
    let epochs: Vec<Value> = space
        .epochs
        .iter()
        .map(|record| {
            let predecessor = record.predecessor.map(|epoch| epoch.to_string());
            json!({
                "epoch": record.epoch.to_string(),
                "first": record.first.0,
                "predecessor": predecessor,
            })
        })
        .collect();
    json!({
        "space": space.space.to_string(),
        "head": space.head.0,
        "epochs": epochs,
        "documents": space.documents,
        "deleted": space.deleted,
        "tailChanges": space.tail_changes,
        "tailBytes": space.tail_bytes,
        "compactedChanges": space.compacted_changes,
        "snapshots": space.snapshots,
        "snapshotBytes": space.snapshot_bytes,
        "compactionsDue": space.compactions_due,
        "compactionsFailed": space.compactions_failed,
        "toPrune": space.to_prune,
    })
}

fn space_lines(space: &SpaceReport) -> Vec<String> {
    let epoch = space.epochs.last().map_or("none".to_owned(), |record| record.epoch.to_string());
    vec![
        format!("space      {}", space.space),
        format!("log        offset {}, epoch {epoch} (number {})", space.head, space.epochs.len()),
        format!("documents  {}, and {} deleted", space.documents, space.deleted),
        format!(
            "tail       {}, {}",
            counted(space.tail_changes, "change"),
            bytes(space.tail_bytes)
        ),
        format!(
            "compacted  {} in {}, {}",
            counted(space.compacted_changes, "change"),
            counted(space.snapshots, "snapshot"),
            bytes(space.snapshot_bytes),
        ),
        format!(
            "compactions {} due, {} failed; {} to prune",
            space.compactions_due,
            space.compactions_failed,
            counted(space.to_prune, "document"),
        ),
    ]
}

fn document_value(document: &DocumentReport) -> Value {
    let heads: Vec<String> = document.heads.iter().map(ToString::to_string).collect();
    let snapshot = document.snapshot.map(|snapshot| {
        json!({
            "hash": hex::encode(snapshot.hash),
            "offset": snapshot.offset.0,
            "bytes": snapshot.bytes,
            "indexBytes": snapshot.index_bytes,
        })
    });
    let failure = document.compaction_failure.as_ref();
    json!({
        "document": document.document.to_string(),
        "heads": heads,
        "deletedAt": document.deleted_at.map(|offset| offset.0),
        "tailChanges": document.tail_changes,
        "tailBytes": document.tail_bytes,
        "tail": document.tail.map(|(first, last)| [first.0, last.0]),
        "compactedChanges": document.compacted_changes,
        "snapshot": snapshot,
        "actors": document.actors,
        "compactionDue": document.compaction_due,
        "compactionFailure": failure.map(|(version, reason)| json!({"version": version, "reason": reason})),
    })
}

fn document_line(document: &DocumentReport) -> String {
    let snapshot_bytes = document.snapshot.map_or(0, |snapshot| snapshot.bytes);
    format!(
        "{:>10}{:>10}{:>10}{:>10}{:>8}  {}{}",
        document.compacted_changes + document.tail_changes,
        document.compacted_changes,
        document.tail_changes,
        snapshot_bytes + document.tail_bytes,
        document.actors,
        document.document,
        if document.deleted_at.is_some() { " (deleted)" } else { "" },
    )
}

fn document_lines(document: &DocumentReport, actors: &[(ActorId, u64)]) -> Vec<String> {
    let mut lines = vec![format!("document   {}", document.document)];
    lines.extend(document.deleted_at.map(|at| format!("deleted    at offset {at}")));
    lines.extend(document.heads.iter().map(|head| format!("head       {head}")));
    let (changes, tail) = (counted(document.tail_changes, "change"), bytes(document.tail_bytes));
    lines.push(match document.tail {
        Some((first, last)) => format!("tail       {changes}, {tail}, offsets {first} to {last}"),
        None => format!("tail       {changes}"),
    });
    if let Some(snapshot) = &document.snapshot {
        lines.push(format!(
            "snapshot   {}, {}, at offset {}, index {}",
            counted(document.compacted_changes, "change"),
            bytes(snapshot.bytes),
            snapshot.offset,
            bytes(snapshot.index_bytes),
        ));
        lines.push(format!("           {}", hex::encode(snapshot.hash)));
    }
    lines.extend(document.compaction_due.then(|| "compaction due".to_owned()));
    if let Some((version, reason)) = &document.compaction_failure {
        lines.push(format!("compaction failed with version {version}: {reason}"));
    }
    let actor =
        |(actor, last): &(ActorId, u64)| format!("actor      {actor}, last sequence {last}");
    lines.extend(actors.iter().map(actor));
    lines
}

fn verified_value(verified: &Verified) -> Value {
    json!({
        "spaces": verified.spaces,
        "documents": verified.documents,
        "changes": verified.changes,
        "snapshots": verified.snapshots,
        "bytes": verified.bytes,
    })
}

fn verified_line(verified: &Verified) -> String {
    let Verified { spaces, documents, changes, snapshots, bytes: checked, .. } = verified;
    format!(
        "checked {}, {}, {}, {}, {}",
        counted(*spaces, "space"),
        counted(*documents, "document"),
        counted(*changes, "change"),
        counted(*snapshots, "snapshot"),
        bytes(*checked)
    )
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "space": finding.space.as_ref().map(ToString::to_string),
        "document": finding.document.map(|document| document.to_string()),
        "offset": finding.offset.map(|offset| offset.0),
        "what": finding.damage.to_string(),
        "derived": finding.damage.is_derived(),
        "harmless": finding.damage.is_harmless(),
    })
}

fn finding_lines(found: &VerifyFindings) -> Vec<String> {
    let mut lines: Vec<String> = found.findings.iter().map(ToString::to_string).collect();
    let more = found.verified.findings.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("and {more} more, some maybe of other spaces")));
    lines
}

fn repaired_value(repaired: &Repaired) -> Value {
    let indexes = repaired.indexes.iter().map(|(space, document, _)| {
        json!({"space": space.to_string(), "document": document.to_string()})
    });
    json!({
        "documents": repaired.documents,
        "droppedChanges": repaired.dropped_changes,
        "droppedSnapshots": repaired.dropped_snapshots,
        "broken": repaired.broken.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "indexes": indexes.collect::<Vec<_>>(),
        "left": repaired.left.iter().map(finding_value).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_use_singular_and_plural() {
        let findings = [(1, "space"), (2, "space"), (1, "index"), (0, "index")];
        let findings = findings.map(|(number, one)| counted(number, one));
        assert_eq!(findings, ["1 space", "2 spaces", "1 index", "0 indexes"]);
    }

    #[test]
    fn byte_counts_are_human_readable() {
        let lengths = [0, 1, 9_999, 10_000, 12_345_678, 98_765_432_100];
        let read = lengths.map(bytes);
        assert_eq!(read, ["0 bytes", "1 byte", "9999 bytes", "10.0 kB", "12.3 MB", "98.8 GB"]);
    }
}
