//! The cost of a preflight, in units that follow from the change's bytes alone. Sets no limits.

/// Inflated bytes that cost as much as one operation. Both take about a quarter of a microsecond at
/// most: the bytes to be inflated and hashed, the operation to be expanded.
const BYTES_PER_OPERATION: u64 = 64;

/// The cost of one or several preflights. It is known before anything is expanded: run lengths give
/// the operations, and inflating stops at a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Operations and the predecessors that they name.
    pub operations: u64,
    /// Inflated bytes of the chunks.
    pub bytes: u64,
}

impl Work {
    /// The cost as one number, in operations.
    pub fn units(self) -> u64 {
        self.operations.saturating_add(self.bytes / BYTES_PER_OPERATION)
    }

    /// Whether both quantities are within `most`.
    pub fn is_within(self, most: Self) -> bool {
        self.operations <= most.operations && self.bytes <= most.bytes
    }

    /// The sum of both.
    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            operations: self.operations.saturating_add(more.operations),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    /// The rest after `less`.
    pub(super) fn minus(self, less: Self) -> Self {
        Self {
            operations: self.operations.saturating_sub(less.operations),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}
