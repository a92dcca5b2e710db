//! The columns of a change's operations, walked by run lengths: the time depends on the number of
//! runs, not on the number of operations that they claim.
//!
//! The checks prevent two kinds of harm. automerge 0.12 panics or fills memory on some columns. It
//! applies and saves many others, rebuilds them differently when it loads the document, and then
//! rejects the whole document because hashes do not match. So this module rejects columns that
//! automerge does not know (it drops them), encodings that it would not write, and details that it
//! does not keep.

use super::form::FormError;
use super::predecessors::{Group, Predecessors};
use super::reader::ByteReader;
use super::references::Actors;
use super::runs::{Booleans, Deltas, Line, Runs};
use super::work::Work;
use crate::limits;

/// The column specifications of a change in automerge 0.12, ascending.
const KNOWN: [u64; 14] =
    [0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xa5];

// Actions, by automerge's numbers. 0, 2, 4 and 6 make objects.
const PUT: u64 = 1;
const DELETE: u64 = 3;
const INCREMENT: u64 = 5;
const MARK: u64 = 7;

// Value types: the low four bits of the value metadata. Null, false and true have no bytes.
const NULL: u64 = 0;
const TRUE: u64 = 2;

/// The bytes of a change's columns, in the order of [`KNOWN`]; an absent column is empty.
type Bytes<'a> = [&'a [u8]; KNOWN.len()];

/// Counts and checks the operations of a change whose header has been read. Ignores the bytes after
/// the columns: automerge preserves them as extra bytes of the change (an author, for example).
pub(super) fn count_operations(
    body: &mut ByteReader<'_>,
    start_op: u64,
    actors: &mut Actors<'_>,
) -> Result<Counted, FormError> {
    let columns = split(body)?;
    let mut rows = Rows::new(&columns, start_op);
    rows.walk(actors)?;
    rows.finish()?;
    actors.finish()?;
    let stored_operations = rows.kept.saturating_add(rows.predecessors.total());
    let expanded = Work {
        operations: rows.walked.saturating_add(rows.predecessors.total()),
        bytes: rows.text_bytes,
    };
    Ok(Counted { operations: rows.walked, stored_operations, expanded })
}

/// Operation counts of a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// All operations.
    pub(super) operations: u64,
    /// The operations that the change adds to a saved document: a row for each one except
    /// deletions, and an entry for each predecessor.
    pub(super) stored_operations: u64,
    /// The work of a reader that expands the runs: operations and predecessors, and the bytes of
    /// repeated texts.
    pub(super) expanded: Work,
}

/// Reads the columns' metadata and splits their data.
fn split<'a>(body: &mut ByteReader<'a>) -> Result<Bytes<'a>, FormError> {
    const PART: &str = "column metadata";
    let count = body.unsigned(PART)?;
    if count > KNOWN.len() as u64 {
        return Err(FormError::Columns { limit: KNOWN.len(), actual: count });
    }
    let mut lengths = [0; KNOWN.len()];
    let mut before = None;
    for _ in 0..count {
        let spec = body.unsigned(PART)?;
        let known = KNOWN.binary_search(&spec);
        let index = known.map_err(|_| FormError::UnknownColumn { spec })?;
        if before.is_some_and(|before| before >= index) {
            return Err(FormError::ColumnOrder { spec });
        }
        before = Some(index);
        lengths[index] = body.unsigned(PART)?;
        if lengths[index] == 0 {
            // automerge omits a column without data.
            return Err(FormError::Encoding { column: PART, what: "a column without data" });
        }
    }
    let mut columns = [&[][..]; KNOWN.len()];
    for (column, length) in columns.iter_mut().zip(lengths) {
        *column = body.take(length, "column data")?;
    }
    Ok(columns)
}

/// A run of operations that are equal except for their own counters and for keys that follow one
/// [`Line`].
#[derive(Debug, Clone, Copy)]
struct Stretch<'a> {
    rows: u64,
    /// The counter of the first operation.
    operation: u64,
    object: Option<(u64, u64)>,
    key: (Option<u64>, Option<Line>, Option<&'a [u8]>),
    insert: bool,
    action: u64,
    value: u64,
    predecessors: u64,
    expand: bool,
    mark_name: Option<&'a [u8]>,
}

/// Readers of all columns, positioned at the same row.
#[derive(Debug)]
struct Rows<'a> {
    object_actor: Runs<'a, u64>,
    object_counter: Runs<'a, u64>,
    key_actor: Runs<'a, u64>,
    key_counter: Deltas<'a>,
    key_text: Runs<'a, &'a [u8]>,
    insert: Booleans<'a>,
    action: Runs<'a, u64>,
    value: Runs<'a, u64>,
    value_bytes: usize,
    predecessor_count: Runs<'a, u64>,
    predecessors: Predecessors<'a>,
    expand: Booleans<'a>,
    mark_name: Runs<'a, &'a [u8]>,
    start_op: u64,
    walked: u64,
    /// Walked operations that are not deletions.
    kept: u64,
    stated_value_bytes: u64,
    text_bytes: u64,
    /// The object of the previous operation, if that operation begins a mark.
    begun_mark: Option<Option<(u64, u64)>>,
}

impl<'a> Rows<'a> {
    fn new(columns: &Bytes<'a>, start_op: u64) -> Self {
        let [
            object_actor,
            object_counter,
            key_actor,
            key_counter,
            key_text,
            insert,
            action,
            value,
            raw_value,
            predecessor_count,
            predecessor_actor,
            predecessor_counter,
            expand,
            mark_name,
        ] = *columns;
        Self {
            object_actor: Runs::new("object actor", object_actor),
            object_counter: Runs::new("object counter", object_counter),
            key_actor: Runs::new("key actor", key_actor),
            key_counter: Deltas::new("key counter", key_counter),
            key_text: Runs::new("key text", key_text),
            insert: Booleans::new("insert", insert),
            action: Runs::new("action", action),
            value: Runs::new("value metadata", value),
            value_bytes: raw_value.len(),
            predecessor_count: Runs::new("predecessor count", predecessor_count),
            predecessors: Predecessors::new(predecessor_actor, predecessor_counter),
            expand: Booleans::new("expand", expand),
            mark_name: Runs::new("mark name", mark_name),
            start_op,
            walked: 0,
            kept: 0,
            stated_value_bytes: 0,
            text_bytes: 0,
            begun_mark: None,
        }
    }

    fn walk(&mut self, actors: &mut Actors<'_>) -> Result<(), FormError> {
        while let Some(stretch) = self.stretch()? {
            let group = Group {
                operation: stretch.operation,
                rows: stretch.rows,
                each: stretch.predecessors,
            };
            // A stretch is checked as one operation. Only its predecessors need a walk: they have runs of
            // their own.
            stretch.check_object(actors)?;
            stretch.check_key(actors)?;
            stretch.check_action()?;
            self.check_mark(&stretch)?;
            self.add_value(&stretch)?;
            self.add_text(&stretch)?;
            self.predecessors.walk(group, actors)?;
            self.kept += if stretch.action == DELETE { 0 } else { stretch.rows };
            self.advance(stretch.rows)?;
        }
        Ok(())
    }

    /// The next run of equal operations. automerge counts operations by the action column.
    fn stretch(&mut self) -> Result<Option<Stretch<'a>>, FormError> {
        let (action, rows) = self.action.stretch()?;
        let is_absent = action.is_none() && rows == u64::MAX;
        if rows == 0 || is_absent {
            return Ok(None);
        }
        let (limit, actual) = (limits::CHANGE_OPERATIONS, self.walked.saturating_add(rows));
        if actual > limit {
            return Err(FormError::Operations { limit, actual });
        }
        let last = self.start_op.saturating_add(actual - 1);
        if last > limits::OPERATION_COUNTER {
            return Err(FormError::Counter { limit: limits::OPERATION_COUNTER, actual: last });
        }
        let operation = self.start_op + self.walked;
        // Every column has its own runs. The shortest one limits how many rows can be checked as
        // one.
        let mut least = Least { rows, expected: actual };
        let object_actor = least.of(self.object_actor.column(), self.object_actor.stretch()?)?;
        let object_counter =
            least.of(self.object_counter.column(), self.object_counter.stretch()?)?;
        let what = "its object has an actor or a counter, but not both";
        let object = both(object_actor, object_counter)
            .map_err(|()| FormError::Operation { operation, what })?;
        let stretch = Stretch {
            rows: 0,
            operation,
            object,
            key: (
                least.of(self.key_actor.column(), self.key_actor.stretch()?)?,
                least.of(self.key_counter.column(), self.key_counter.stretch()?)?,
                least.of(self.key_text.column(), self.key_text.stretch()?)?,
            ),
            insert: least.of(self.insert.column(), self.insert.stretch()?)?,
            action: needed(&self.action, action)?,
            value: least.of_needed(&mut self.value)?,
            predecessors: least.of_needed(&mut self.predecessor_count)?,
            expand: least.of(self.expand.column(), self.expand.stretch()?)?,
            mark_name: least.of(self.mark_name.column(), self.mark_name.stretch()?)?,
        };
        Ok(Some(Stretch { rows: least.rows, ..stretch }))
    }

    fn advance(&mut self, rows: u64) -> Result<(), FormError> {
        self.object_actor.advance(rows);
        self.object_counter.advance(rows);
        self.key_actor.advance(rows);
        self.key_counter.advance(rows)?;
        self.key_text.advance(rows);
        self.insert.advance(rows);
        self.action.advance(rows);
        self.value.advance(rows);
        self.predecessor_count.advance(rows);
        self.expand.advance(rows);
        self.mark_name.advance(rows);
        self.walked += rows;
        Ok(())
    }

    /// automerge 0.12 loads the end of a mark only directly after its beginning, and supports marks
    /// only in sequences.
    fn check_mark(&mut self, stretch: &Stretch<'_>) -> Result<(), FormError> {
        let before = self.begun_mark.take();
        if stretch.action != MARK {
            return Ok(());
        }
        stretch.refuse_if(!stretch.insert, "it is a mark and not an insertion")?;
        if stretch.mark_name.is_some() {
            self.begun_mark = Some(stretch.object);
            return Ok(());
        }
        let follows = before == Some(stretch.object) && stretch.rows == 1;
        stretch.refuse_if(!follows, "it ends a mark that the operation before did not begin")
    }

    fn add_value(&mut self, stretch: &Stretch<'_>) -> Result<(), FormError> {
        let (kind, length) = (stretch.value & 0xf, stretch.value >> 4);
        stretch.refuse_if(kind <= TRUE && length > 0, "its value has bytes but needs none")?;
        let sum = length.checked_mul(stretch.rows);
        let sum = sum.and_then(|bytes| bytes.checked_add(self.stated_value_bytes));
        let (stated, actual) = (sum.unwrap_or(u64::MAX), self.value_bytes);
        if stated > actual as u64 {
            return Err(FormError::ValueBytes { stated, actual });
        }
        self.stated_value_bytes = stated;
        Ok(())
    }

    /// Counts the bytes of texts: automerge writes the text out for every operation that it
    /// applies.
    fn add_text(&mut self, stretch: &Stretch<'_>) -> Result<(), FormError> {
        let length = |text: Option<&[u8]>| text.map_or(0, |text| text.len() as u64);
        let each = length(stretch.key.2) + length(stretch.mark_name);
        let limit = limits::CHANGE_INFLATED_BYTES as u64;
        self.text_bytes = each.saturating_mul(stretch.rows).saturating_add(self.text_bytes);
        if self.text_bytes > limit { Err(FormError::Text { limit }) } else { Ok(()) }
    }

    /// Checks that no column has more rows than there are operations.
    fn finish(&mut self) -> Result<(), FormError> {
        let rows = self.walked;
        self.object_actor.finish(rows)?;
        self.object_counter.finish(rows)?;
        self.key_actor.finish(rows)?;
        self.key_counter.finish(rows)?;
        self.key_text.finish(rows)?;
        self.insert.finish(rows)?;
        self.action.finish(rows)?;
        self.value.finish(rows)?;
        self.predecessor_count.finish(rows)?;
        self.predecessors.finish()?;
        self.expand.finish(rows)?;
        self.mark_name.finish(rows)?;
        let (stated, actual) = (self.stated_value_bytes, self.value_bytes);
        if stated != actual as u64 {
            return Err(FormError::ValueBytes { stated, actual });
        }
        if self.insert.is_absent() && rows > 0 {
            return Err(FormError::ColumnLength { column: self.insert.column(), expected: rows });
        }
        if !self.expand.is_absent() && !self.expand.was_true() {
            let (column, what) = (self.expand.column(), "only false");
            return Err(FormError::Encoding { column, what });
        }
        Ok(())
    }
}

/// The number of rows for which all columns read so far hold their current value.
struct Least {
    rows: u64,
    expected: u64,
}

impl Least {
    fn of<T>(&mut self, column: &'static str, (value, rows): (T, u64)) -> Result<T, FormError> {
        if rows == 0 {
            return Err(FormError::ColumnLength { column, expected: self.expected });
        }
        self.rows = self.rows.min(rows);
        Ok(value)
    }

    fn of_needed(&mut self, runs: &mut Runs<'_, u64>) -> Result<u64, FormError> {
        let value = self.of(runs.column(), runs.stretch()?)?;
        needed(runs, value)
    }
}

fn needed(runs: &Runs<'_, u64>, value: Option<u64>) -> Result<u64, FormError> {
    let (column, what) = (runs.column(), "a null, or no value");
    value.ok_or(FormError::Encoding { column, what })
}

fn both(actor: Option<u64>, counter: Option<u64>) -> Result<Option<(u64, u64)>, ()> {
    match (actor, counter) {
        (Some(actor), Some(counter)) => Ok(Some((actor, counter))),
        (None, None) => Ok(None),
        _ => Err(()),
    }
}

impl Stretch<'_> {
    fn check_object(&self, actors: &mut Actors<'_>) -> Result<(), FormError> {
        let Some((actor, counter)) = self.object else {
            // The root is a map.
            return self.refuse_if(self.key.2.is_none(), "it has no text key in the root map");
        };
        actors.refer("object actor", actor)?;
        if counter == 0 || counter >= self.operation {
            let value = i64::try_from(counter).unwrap_or(i64::MAX);
            let (column, operation) = ("object counter", self.operation);
            return Err(FormError::Reference { column, operation, value });
        }
        Ok(())
    }

    /// A key is a text, an element, or the head (counter 0 without an actor).
    fn check_key(&self, actors: &mut Actors<'_>) -> Result<(), FormError> {
        match self.key {
            (None, None, Some(_)) => self.refuse_if(self.insert, "it inserts at a text key"),
            (None, Some(line), None) => {
                let is_head = line.first == 0 && (self.rows == 1 || line.step == 0);
                self.refuse_if(!is_head, "its key has a counter but no actor")?;
                self.refuse_if(!self.insert, "only an insertion can name the head")
            }
            (Some(actor), Some(line), None) => {
                actors.refer("key actor", actor)?;
                if line.is_before(self.operation, self.rows, 0, 1) {
                    return Ok(());
                }
                let (column, operation) = ("key counter", self.operation);
                Err(FormError::Reference { column, operation, value: line.first })
            }
            _ => self.refuse_if(true, "its key is neither a text nor an element"),
        }
    }

    /// automerge keeps a deletion only as a successor of the operation that it deletes, so other
    /// details of a deletion would be lost. The remaining checks reject operations that automerge
    /// never writes and does not preserve everywhere.
    fn check_action(&self) -> Result<(), FormError> {
        self.refuse_if(self.action > MARK, "its action is unknown")?;
        let has_value = matches!(self.action, PUT | INCREMENT)
            || (self.action == MARK && self.mark_name.is_some());
        self.refuse_if(
            !has_value && self.value != NULL,
            "it has a value and its action takes none",
        )?;
        let marks = self.expand || self.mark_name.is_some();
        self.refuse_if(marks && self.action != MARK, "it has fields of a mark and is no mark")?;
        self.refuse_if(self.insert && self.predecessors > 0, "it inserts over a predecessor")?;
        self.refuse_if(self.insert && self.action == INCREMENT, "it inserts an increment")?;
        let deletes = self.action == DELETE;
        self.refuse_if(deletes && self.predecessors == 0, "it deletes nothing")?;
        self.refuse_if(deletes && self.insert, "it inserts and deletes")
    }

    fn refuse_if(&self, wrong: bool, what: &'static str) -> Result<(), FormError> {
        if wrong { Err(FormError::Operation { operation: self.operation, what }) } else { Ok(()) }
    }
}
