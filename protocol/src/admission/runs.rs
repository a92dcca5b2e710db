//! The run-length encodings of automerge's columns, read without expanding a run.
//!
//! A column is walked in *stretches*: the rows that one run covers. Each reader also enforces the
//! encoding that automerge itself writes. No other encoding survives: a saved document keeps
//! operations, not bytes, and loading rebuilds every change and compares hashes. A change in
//! another encoding gives a document that saves but never loads again.

use super::form::FormError;
use super::reader::ByteReader;

/// The value type of a run-length encoded column.
pub(super) trait Cell<'a>: Copy + PartialEq {
    fn read(reader: &mut ByteReader<'a>, column: &'static str) -> Result<Self, FormError>;
}

impl Cell<'_> for u64 {
    fn read(reader: &mut ByteReader<'_>, column: &'static str) -> Result<Self, FormError> {
        reader.unsigned(column)
    }
}

impl Cell<'_> for i64 {
    fn read(reader: &mut ByteReader<'_>, column: &'static str) -> Result<Self, FormError> {
        reader.signed(column)
    }
}

impl<'a> Cell<'a> for &'a [u8] {
    fn read(reader: &mut ByteReader<'a>, column: &'static str) -> Result<Self, FormError> {
        let length = reader.unsigned(column)?;
        reader.take(length, column)
    }
}

/// The kind of the previous run, which restricts the next one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Start,
    Repeat,
    Literal,
    Null,
}

/// A run-length encoded column. A column without bytes is an endless run of nulls.
#[derive(Debug)]
pub(super) struct Runs<'a, V> {
    column: &'static str,
    reader: ByteReader<'a>,
    absent: bool,
    kind: Kind,
    /// Values of a literal run that are still unread.
    literals: u64,
    value: Option<V>,
    /// Rows left of the stretch that holds `value`.
    rows: u64,
}

impl<'a, V: Cell<'a>> Runs<'a, V> {
    pub(super) fn new(column: &'static str, bytes: &'a [u8]) -> Self {
        let absent = bytes.is_empty();
        Self {
            column,
            reader: ByteReader::new(bytes),
            absent,
            kind: Kind::Start,
            literals: 0,
            value: None,
            rows: if absent { u64::MAX } else { 0 },
        }
    }

    pub(super) fn column(&self) -> &'static str {
        self.column
    }

    /// The current value and the number of rows for which it holds; 0 rows at the column's end.
    pub(super) fn stretch(&mut self) -> Result<(Option<V>, u64), FormError> {
        if self.rows == 0 {
            self.next_stretch()?;
        }
        Ok((self.value, self.rows))
    }

    /// Advances by `rows`, at most to the end of the stretch.
    pub(super) fn advance(&mut self, rows: u64) {
        if !self.absent {
            self.rows = self.rows.saturating_sub(rows);
        }
    }

    /// Rejects a column that has more rows than were walked, or holds only nulls.
    pub(super) fn finish(&mut self, expected: u64) -> Result<(), FormError> {
        if self.absent {
            return Ok(());
        }
        if self.stretch()?.1 > 0 {
            return Err(FormError::ColumnLength { column: self.column, expected });
        }
        Ok(())
    }

    fn next_stretch(&mut self) -> Result<(), FormError> {
        if self.literals > 0 {
            return self.next_literal();
        }
        if self.reader.is_empty() {
            return Ok(());
        }
        let count = self.reader.signed(self.column)?;
        match count {
            1.. => {
                let value = V::read(&mut self.reader, self.column)?;
                self.refuse_if(count == 1, "a run of one")?;
                self.refuse_if(self.value == Some(value), "two runs of one value")?;
                self.value = Some(value);
                self.rows = count.unsigned_abs();
                self.kind = Kind::Repeat;
                Ok(())
            }
            0 => self.next_nulls(),
            _ => {
                self.refuse_if(self.kind == Kind::Literal, "two literal runs in a row")?;
                self.kind = Kind::Literal;
                self.literals = count.unsigned_abs();
                self.next_literal()
            }
        }
    }

    fn next_literal(&mut self) -> Result<(), FormError> {
        let value = V::read(&mut self.reader, self.column)?;
        self.refuse_if(self.value == Some(value), "a repeated value in a literal run")?;
        self.literals -= 1;
        self.value = Some(value);
        self.rows = 1;
        Ok(())
    }

    fn next_nulls(&mut self) -> Result<(), FormError> {
        let count = self.reader.unsigned(self.column)?;
        self.refuse_if(count == 0, "an empty run of nulls")?;
        self.refuse_if(self.kind == Kind::Null, "two runs of nulls in a row")?;
        let only_nulls = self.kind == Kind::Start && self.reader.is_empty();
        self.refuse_if(only_nulls, "only nulls")?;
        self.kind = Kind::Null;
        self.value = None;
        self.rows = count;
        Ok(())
    }

    fn refuse_if(&self, wrong: bool, what: &'static str) -> Result<(), FormError> {
        if wrong { Err(FormError::Encoding { column: self.column, what }) } else { Ok(()) }
    }
}

/// Numbers that grow by the same step from row to row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) first: i64,
    pub(super) step: i64,
}

impl Line {
    /// The number `rows` rows after the first; `None` beyond an `i64`.
    pub(super) fn after(self, rows: u64) -> Option<i64> {
        self.step.checked_mul(i64::try_from(rows).ok()?)?.checked_add(self.first)
    }

    /// Whether each of `rows` numbers is at least 1 and below the counter of its own operation, if
    /// every `per` rows belong to one operation and `skip` rows precede them. Checking the two ends
    /// is sufficient: the distance between the line and the operations' counters, a staircase of
    /// steps 0 and 1, changes in only one direction, because the line's step is either at least 1
    /// or at most 0.
    pub(super) fn is_before(self, operation: u64, rows: u64, skip: u64, per: u64) -> bool {
        let within = |row: u64, value: Option<i64>| {
            let own = operation.saturating_add((skip.saturating_add(row)) / per.max(1));
            value.and_then(|value| u64::try_from(value).ok()).is_some_and(|v| v >= 1 && v < own)
        };
        let last = rows.saturating_sub(1);
        within(0, Some(self.first)) && within(last, self.after(last))
    }
}

/// A column of differences: a run of equal differences is a line.
#[derive(Debug)]
pub(super) struct Deltas<'a> {
    runs: Runs<'a, i64>,
    /// The last value, to which the next difference is added.
    base: i64,
}

impl<'a> Deltas<'a> {
    pub(super) fn new(column: &'static str, bytes: &'a [u8]) -> Self {
        Self { runs: Runs::new(column, bytes), base: 0 }
    }

    pub(super) fn column(&self) -> &'static str {
        self.runs.column
    }

    /// The current line and the number of rows for which it holds; 0 rows at the column's end.
    pub(super) fn stretch(&mut self) -> Result<(Option<Line>, u64), FormError> {
        let (step, rows) = self.runs.stretch()?;
        let line = match step {
            None => None,
            Some(step) => {
                let first = self.base.checked_add(step).ok_or(self.overflow())?;
                Some(Line { first, step })
            }
        };
        Ok((line, rows))
    }

    /// Advances by `rows`, at most to the end of the stretch.
    pub(super) fn advance(&mut self, rows: u64) -> Result<(), FormError> {
        if let (Some(step), true) = (self.runs.value, rows > 0) {
            let line = Line { first: self.base, step };
            self.base = line.after(rows).ok_or(self.overflow())?;
        }
        self.runs.advance(rows);
        Ok(())
    }

    pub(super) fn finish(&mut self, expected: u64) -> Result<(), FormError> {
        self.runs.finish(expected)
    }

    /// An overflow of the range, at which automerge would end the column silently.
    fn overflow(&self) -> FormError {
        FormError::Number { part: self.runs.column }
    }
}

/// A column of booleans: run lengths that alternate between false and true, beginning with false. A
/// column without bytes is endlessly false.
#[derive(Debug)]
pub(super) struct Booleans<'a> {
    column: &'static str,
    reader: ByteReader<'a>,
    absent: bool,
    started: bool,
    was_true: bool,
    value: bool,
    rows: u64,
}

impl<'a> Booleans<'a> {
    pub(super) fn new(column: &'static str, bytes: &'a [u8]) -> Self {
        let absent = bytes.is_empty();
        Self {
            column,
            reader: ByteReader::new(bytes),
            absent,
            started: false,
            was_true: false,
            value: false,
            rows: if absent { u64::MAX } else { 0 },
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    pub(super) fn column(&self) -> &'static str {
        self.column
    }

    /// Whether any run so far was true.
    pub(super) fn was_true(&self) -> bool {
        self.was_true
    }

    /// The current value and the number of rows for which it holds; 0 rows at the column's end.
    pub(super) fn stretch(&mut self) -> Result<(bool, u64), FormError> {
        while self.rows == 0 && !self.reader.is_empty() {
            let count = self.reader.unsigned(self.column)?;
            // Only the first run may be empty, in a column that begins with true.
            if count == 0 && (self.started || self.reader.is_empty()) {
                return Err(FormError::Encoding { column: self.column, what: "an empty run" });
            }
            self.value = self.started && !self.value;
            self.started = true;
            self.was_true |= self.value;
            self.rows = count;
        }
        Ok((self.value, self.rows))
    }

    /// Advances by `rows`, at most to the end of the stretch.
    pub(super) fn advance(&mut self, rows: u64) {
        if !self.absent {
            self.rows = self.rows.saturating_sub(rows);
        }
    }

    /// Rejects a column that has more rows than were walked.
    pub(super) fn finish(&mut self, expected: u64) -> Result<(), FormError> {
        if !self.absent && self.stretch()?.1 > 0 {
            return Err(FormError::ColumnLength { column: self.column, expected });
        }
        Ok(())
    }
}
