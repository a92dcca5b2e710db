//! Recorded editing sessions: their format, and errors of invalid files.

mod concurrent;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use thiserror::Error;

use crate::failure::{Exit, Failure};

pub(crate) use concurrent::{AGENTS_MOST, Concurrent, Seen};

/// Largest size of an inflated trace in bytes. The largest known one has a tenth of that.
const BYTES_MOST: u64 = 256 * 1024 * 1024;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// One author.
    Alone(Trace),
    /// Several concurrent authors.
    Together(Concurrent),
}

/// One author's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) start: String,
    pub(crate) end: String,
    /// Each is one change.
    pub(crate) transactions: Vec<Vec<Patch>>,
}

/// Replaces `deleted` code points at `position` by `inserted`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Patch(pub(crate) usize, pub(crate) usize, pub(crate) String);

/// The file's JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: Option<String>,
    num_agents: Option<u64>,
    #[serde(default)]
    start_content: String,
    end_content: String,
    txns: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    patches: Vec<Patch>,
    #[serde(default)]
    parents: Vec<usize>,
    #[serde(default)]
    agent: usize,
}

/// The value of `kind` for a session of several authors.
const CONCURRENT: &str = "concurrent";

/// Why a file is not a playable trace.
#[derive(Debug, Error)]
pub(crate) enum TraceError {
    #[error("cannot read the trace {path}: {source}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the trace {path} is larger than {BYTES_MOST} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not a trace: {source}")]
    NotATrace {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} is a trace of kind `{kind}`")]
    UnknownKind { path: PathBuf, kind: String },
    #[error("{path} is a trace of {agents} authors")]
    Authors { path: PathBuf, agents: u64 },
    /// The transaction depends on a later one, or not on its author's previous one, or has no author.
    #[error("transaction {transaction} of {path} does not follow the ones before it")]
    Disorder { path: PathBuf, transaction: usize },
    #[error("transaction {transaction} of {path} edits beyond the end of the text")]
    OutOfRange { path: PathBuf, transaction: usize },
    #[error("the transactions of {path} do not produce its endContent")]
    Inconsistent { path: PathBuf },
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        let remedy = match &error {
            TraceError::Unreadable { .. } => "check the path".to_owned(),
            TraceError::UnknownKind { .. } => {
                "this version plays traces without a kind, and `concurrent` ones".to_owned()
            }
            TraceError::Authors { .. } => format!("give one with 1 to {AGENTS_MOST} authors"),
            _ => "give an editing trace as JSON or gzipped JSON".to_owned(),
        };
        Self::new(Exit::Input, "nothing was replayed", error, remedy)
    }
}

impl Recorded {
    /// Reads a trace, and checks as far as possible that it can be played.
    pub(crate) fn read(path: &Path) -> Result<Self, TraceError> {
        let unreadable = |source| TraceError::Unreadable { path: path.to_owned(), source };
        let bytes = fs::read(path).map_err(unreadable)?;
        let mut json = Vec::new();
        let mut source: Box<dyn Read> = match bytes.starts_with(&GZIP) {
            true => Box::new(MultiGzDecoder::new(bytes.as_slice())),
            false => Box::new(bytes.as_slice()),
        };
        source.by_ref().take(BYTES_MOST + 1).read_to_end(&mut json).map_err(unreadable)?;
        if json.len() as u64 > BYTES_MOST {
            return Err(TraceError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path, &json)
    }

    fn parse(path: &Path, json: &[u8]) -> Result<Self, TraceError> {
        let path = path.to_owned();
        let file: File = match serde_json::from_slice(json) {
            Ok(file) => file,
            Err(source) => return Err(TraceError::NotATrace { path, source }),
        };
        match file.kind.as_deref() {
            None => Trace::new(path, file).map(Self::Alone),
            Some(CONCURRENT) => Concurrent::new(path, file).map(Self::Together),
            Some(kind) => Err(TraceError::UnknownKind { path, kind: kind.to_owned() }),
        }
    }
}

impl Trace {
    fn new(path: PathBuf, file: File) -> Result<Self, TraceError> {
        let transactions = file.txns.into_iter().map(|txn| txn.patches).collect();
        let trace = Self { start: file.start_content, end: file.end_content, transactions };
        match trace.play() {
            Err(transaction) => Err(TraceError::OutOfRange { path, transaction }),
            Ok(text) if text != trace.end => Err(TraceError::Inconsistent { path }),
            Ok(_) => Ok(trace),
        }
    }

    /// Plays it on a plain string; the error is the index of the first invalid transaction.
    fn play(&self) -> Result<String, usize> {
        let mut text: Vec<char> = self.start.chars().collect();
        for (index, patches) in self.transactions.iter().enumerate() {
            for Patch(position, deleted, inserted) in patches {
                let end = position.checked_add(*deleted).filter(|end| *end <= text.len());
                text.splice(*position..end.ok_or(index)?, inserted.chars());
            }
        }
        Ok(text.into_iter().collect())
    }

    /// Number of changes.
    pub(crate) fn len(&self) -> u64 {
        self.transactions.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn parse(json: &str) -> Result<Recorded, TraceError> {
        Recorded::parse(Path::new("t.json"), json.as_bytes())
    }

    const SMALL: &str = r#"{"startContent":"漢a","endContent":"漢b!","txns":[
        {"timestamp":"x","patches":[[1,1,"b"]]},{"patches":[[2,0,"?"],[2,1,"!"]]}]}"#;

    #[test]
    fn positions_are_code_points() {
        let Recorded::Alone(trace) = parse(SMALL).unwrap() else { panic!() };
        assert_eq!(trace.len(), 2);
        assert_eq!(trace.play().as_deref(), Ok("漢b!"));
    }

    #[test]
    fn gzipped_and_plain_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&plain, SMALL).unwrap();
        let file = fs::File::create(&packed).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(SMALL.as_bytes()).unwrap();
        gzip.finish().unwrap();
        assert_eq!(Recorded::read(&plain).unwrap(), Recorded::read(&packed).unwrap());
    }

    #[test]
    fn invalid_traces_are_reported() {
        assert!(matches!(parse("{}"), Err(TraceError::NotATrace { .. })));
        let newer = parse(r#"{"kind":"video","endContent":"","txns":[]}"#);
        assert!(matches!(newer, Err(TraceError::UnknownKind { kind, .. }) if kind == "video"));
        let beyond = parse(r#"{"endContent":"","txns":[{"patches":[[1,0,"a"]]}]}"#);
        assert!(matches!(beyond, Err(TraceError::OutOfRange { transaction: 0, .. })));
        let other = parse(r#"{"endContent":"b","txns":[{"patches":[[0,0,"a"]]}]}"#);
        assert!(matches!(other, Err(TraceError::Inconsistent { .. })));
        let missing = Recorded::read(Path::new("no/such/trace"));
        assert!(matches!(missing, Err(TraceError::Unreadable { .. })));
    }
}
