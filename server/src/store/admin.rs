//! Whole-store operations of the operator: inspection, verification, repair, copies and export. They open the
//! file themselves; only backups and verification run beside a relay.

pub(in crate::store) mod contents;
pub mod copies;
pub mod fault;
pub mod inspect;
pub mod repair;
pub mod verify;
