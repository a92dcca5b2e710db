//! Recorded editing sessions, from the folder in `LANDFALL_TRACES` (default: `../shared/data` beside
//! the repository). If they are absent, a test prints that and skips.

use std::io::Read;
use std::path::PathBuf;

/// One edit: the position (in code points), the number of deleted code points, the inserted text.
pub type Patch = (usize, usize, String);

/// A session of one author.
#[derive(Debug)]
pub struct Trace {
    /// The patches of each transaction.
    pub transactions: Vec<Vec<Patch>>,
    /// The expected final text.
    pub end: String,
}

/// Loads a trace of one author; prints a reason and returns `None` if it is absent.
///
/// # Panics
/// If the file exists but is malformed.
pub fn load(name: &str) -> Option<Trace> {
    let folder = std::env::var_os("LANDFALL_TRACES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join(name);
    let Ok(file) = std::fs::File::open(&path) else {
        println!("SKIPPED: no trace at {}; set LANDFALL_TRACES to its folder", path.display());
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a gzipped text");
    let json: serde_json::Value = serde_json::from_str(&text).expect("a JSON trace");
    let transactions = json["txns"].as_array().expect("transactions");
    let patches = |txn: &serde_json::Value| {
        txn["patches"].as_array().expect("patches").iter().map(patch).collect()
    };
    Some(Trace {
        transactions: transactions.iter().map(patches).collect(),
        end: json["endContent"].as_str().expect("an end").to_owned(),
    })
}

fn patch(json: &serde_json::Value) -> Patch {
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    (number(&json[0]), number(&json[1]), json[2].as_str().expect("a text").to_owned())
}
