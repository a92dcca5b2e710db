//! What a preflight costs, in units that follow from the change's bytes alone.

/// Inflated bytes that cost as much as one operation: both take about a quarter of a microsecond at
/// most, the bytes to be inflated and hashed, the operation to be expanded.
const BYTES_PER_OPERATION: u64 = 64;

/// The work of one or several preflights. It is known before anything is expanded: run lengths tell
/// the operations, and inflating stops at a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Operations, and the predecessors that they name.
    pub operations: u64,
    /// Bytes of the chunks, inflated.
    pub bytes: u64,
}

impl Work {
    /// As one number: operations, and what bytes cost in operations.
    pub fn units(self) -> u64 {
        self.operations.saturating_add(self.bytes / BYTES_PER_OPERATION)
    }

    /// Whether it is within a bound, in each respect.
    pub fn is_within(self, most: Self) -> bool {
        self.operations <= most.operations && self.bytes <= most.bytes
    }

    /// Both together.
    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            operations: self.operations.saturating_add(more.operations),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    /// What is left of it after `less`.
    pub(super) fn minus(self, less: Self) -> Self {
        Self {
            operations: self.operations.saturating_sub(less.operations),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}
