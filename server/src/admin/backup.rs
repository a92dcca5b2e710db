//! `backup`: the store as one file, also while a relay writes it.

use std::path::Path;

use super::{AdminError, must_have_store};
use crate::store::admin::copies;

/// Copies the store of a data folder to a new file; returns the file's length in bytes.
pub(crate) fn backup(data: &Path, target: &Path) -> Result<u64, AdminError> {
    must_have_store(data)?;
    copies::copy_out(data, target).map_err(AdminError::Backup)?;
    let made = target.metadata();
    made.map(|made| made.len()).map_err(|error| AdminError::Read(target.to_owned(), error))
}
