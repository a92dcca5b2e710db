//! Defects in a change's form. The sending peer broke the rules, or the bytes were damaged in
//! transit. Either way the change is rejected permanently, and nothing else is affected.

use thiserror::Error;

use crate::ids::ChangeHash;

/// Why the preflight rejects a change's bytes before automerge parses them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormError {
    /// More bytes than a change may have on the wire.
    #[error("a change has at most {limit} bytes, this one has {actual}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The change's length in bytes.
        actual: usize,
    },
    /// The bytes do not begin with automerge's magic number.
    #[error("automerge's chunks begin with 856f4a83, this begins with {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A chunk, but not a change: only types 1 (change) and 2 (deflated change) are accepted.
    #[error("a change is a chunk of type 1 or 2, this is of type {found} (0 document, 3 bundle)")]
    ChunkType {
        /// The type's number.
        found: u8,
    },
    /// The bytes end too early, or an inner length exceeds the rest of the input.
    #[error("the change ends inside its {part}")]
    Truncated {
        /// The truncated part.
        part: &'static str,
    },
    /// A number that is not in its shortest form, or does not fit its type.
    #[error("the {part} holds a number that is too large or not in its shortest form")]
    Number {
        /// The part that holds the number.
        part: &'static str,
    },
    /// Bytes after the chunk, or after the deflated stream inside it.
    #[error("trailing bytes after the {part}: {count}")]
    TrailingBytes {
        /// The part before them.
        part: &'static str,
        /// Their number.
        count: usize,
    },
    /// The deflated stream is damaged.
    #[error("the change does not inflate")]
    Deflate,
    /// The chunk inflates beyond the limit.
    #[error("changes inflate to at most {limit} bytes")]
    Inflated {
        /// The limit in bytes.
        limit: usize,
    },
    /// The stated checksum is not the beginning of the hash: the bytes are damaged. automerge
    /// itself does not check this, and some peers then drop all later changes.
    #[error("the change declares checksum {stated:02x?} but its hash begins with {actual:02x?}")]
    Checksum {
        /// The checksum in the chunk.
        stated: [u8; 4],
        /// The checksum of its bytes.
        actual: [u8; 4],
    },
    /// More dependencies than a change may have.
    #[error("a change has at most {limit} dependencies, this one has {actual}")]
    Dependencies {
        /// The limit.
        limit: usize,
        /// The number that the change states.
        actual: u64,
    },
    /// The same dependency twice.
    #[error("the change depends twice on {hash}")]
    DuplicateDependency {
        /// The dependency.
        hash: ChangeHash,
    },
    /// An actor id of no bytes or of too many.
    #[error("an actor id has 1 to {limit} bytes, this one has {actual}")]
    ActorLength {
        /// The limit in bytes.
        limit: usize,
        /// The length that the change states.
        actual: u64,
    },
    /// A sequence number of 0 or beyond the limit.
    #[error("a sequence number is 1 to {limit}, this one is {actual}")]
    Sequence {
        /// The limit.
        limit: u64,
        /// The change's sequence number.
        actual: u64,
    },
    /// Operation counters of 0 or beyond the limit; automerge panics on later local edits.
    #[error("operation counters are 1 to {limit}, this change reaches {actual}")]
    Counter {
        /// The limit.
        limit: u64,
        /// The counter out of range: the first of the change, or its last.
        actual: u64,
    },
    /// A timestamp that automerge cannot store beside others.
    #[error("timestamps are {limit} at most, before or after 1970, this one is {actual}")]
    Timestamp {
        /// The limit, in the unit of the change's author: seconds, by automerge's convention.
        limit: i64,
        /// The change's timestamp.
        actual: i64,
    },
    /// The message is not text.
    #[error("the change's message is not UTF-8")]
    Message,
    /// More other actors than a change may name.
    #[error("a change names at most {limit} other actors, this one {actual}")]
    OtherActors {
        /// The limit.
        limit: usize,
        /// The number that the change states.
        actual: u64,
    },
    /// Other actors must ascend and must not include the author.
    #[error("other actor {index} is out of order, named twice, or the change's own author")]
    OtherActorOrder {
        /// Its position among the other actors, from 0.
        index: usize,
    },
    /// A named actor that no operation refers to; automerge panics when it applies such a change.
    #[error("other actor {index} is named but no operation refers to it")]
    UnusedActor {
        /// Its position among the other actors, from 0.
        index: usize,
    },
    /// More columns than exist.
    #[error("a change has at most {limit} columns, this one has {actual}")]
    Columns {
        /// The limit.
        limit: usize,
        /// The number that the change states.
        actual: u64,
    },
    /// A column that automerge 0.12 would drop, or that is deflated. A dropped column changes the
    /// hash, so a saved document would not load.
    #[error("column {spec:#x} is not one that a change may have")]
    UnknownColumn {
        /// The column's specification: id × 16, deflate bit 8, type.
        spec: u64,
    },
    /// Columns must ascend, each once.
    #[error("column {spec:#x} is out of order or a duplicate")]
    ColumnOrder {
        /// The column's specification.
        spec: u64,
    },
    /// Not the encoding that automerge writes, so the hash would not survive saving and loading a
    /// document.
    #[error("the {column} column is not encoded as automerge writes it: {what}")]
    Encoding {
        /// The column.
        column: &'static str,
        /// The difference.
        what: &'static str,
    },
    /// More operations than a change may have, counted from the run lengths.
    #[error("a change has at most {limit} operations, this one has at least {actual}")]
    Operations {
        /// The limit.
        limit: u64,
        /// The number of operations up to the run that passes the limit.
        actual: u64,
    },
    /// More predecessors, over all operations, than a change may have.
    #[error("a change names at most {limit} predecessors, this one at least {actual}")]
    Predecessors {
        /// The limit.
        limit: u64,
        /// The number of predecessors up to the run that passes the limit.
        actual: u64,
    },
    /// A column with more or fewer entries than there are operations (or predecessors).
    #[error("the {column} column does not have {expected} entries, one for each that needs one")]
    ColumnLength {
        /// The column.
        column: &'static str,
        /// The number of expected entries up to the mismatch.
        expected: u64,
    },
    /// The lengths of the values do not add up to the bytes of the values.
    #[error("the values' declared size is {stated} bytes, but they have {actual}")]
    ValueBytes {
        /// The sum of the stated lengths.
        stated: u64,
        /// The bytes of the value column.
        actual: usize,
    },
    /// Keys and mark names that run lengths repeat, and that would fill memory when applied.
    #[error("keys and mark names have at most {limit} bytes in all when decoded")]
    Text {
        /// The limit in bytes.
        limit: u64,
    },
    /// A reference to an actor that the change does not name.
    #[error("the {column} column refers to actor {index}, but the change names {actors}")]
    ActorIndex {
        /// The column.
        column: &'static str,
        /// The index that it holds.
        index: u64,
        /// How many actors the change names, its author included.
        actors: usize,
    },
    /// A reference to an operation that is not older than the one that refers to it.
    #[error(
        "the {column} column of operation {operation} refers to {value}, which is no earlier operation"
    )]
    Reference {
        /// The column.
        column: &'static str,
        /// The counter of the first operation of the run that holds the reference.
        operation: u64,
        /// The counter at the run's beginning.
        value: i64,
    },
    /// Columns that contradict each other, or an operation that automerge loses or panics on.
    #[error("operation {operation} is impossible: {what}")]
    Operation {
        /// The counter of the operation, or of the first of a run of equal ones.
        operation: u64,
        /// The contradiction.
        what: &'static str,
    },
    /// automerge rejects the change, in a part that the earlier checks leave to it (the bytes of
    /// values, texts).
    #[error("automerge refuses the change: {reason}")]
    Refused {
        /// automerge's error text.
        reason: String,
    },
    /// automerge decodes the bytes to another change than this module does. This is a bug of ours.
    /// The change is rejected, because automerge would not apply the change that was checked.
    #[error("automerge and the preflight decode different values of {field}")]
    Disagreement {
        /// The differing field.
        field: &'static str,
    },
}

impl FormError {
    /// Whether the change is well-formed but too large: in bytes, operations or operation counters.
    pub fn is_size(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. }
                | Self::Counter { .. }
                | Self::Inflated { .. }
                | Self::Dependencies { .. }
                | Self::OtherActors { .. }
                | Self::Operations { .. }
                | Self::Predecessors { .. }
                | Self::Text { .. }
        )
    }
}
