//! A command that is performed for another process: what is sent over the control socket, and the mark on the
//! command while it runs.

use std::path::PathBuf;
use std::sync::Arc;

use landfall::Store;
use serde::{Deserialize, Serialize};

/// A command as sent over the control socket.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// The command line, beginning with the program's name.
    pub(crate) args: Vec<String>,
    /// The folder to which its relative paths refer.
    pub(crate) folder: PathBuf,
    pub(crate) space: String,
    pub(crate) quiet: bool,
    pub(crate) offline: bool,
    /// The relay's URL, if the user gave one.
    pub(crate) relay: Option<String>,
    /// The content of standard input, if the command reads it.
    pub(crate) input: Option<String>,
    /// The user has confirmed.
    pub(crate) is_confirmed: bool,
    /// The user's edit of a note's text in an editor.
    pub(crate) draft: Option<Draft>,
}

/// A text before and after its editing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Draft {
    /// The document's heads at the beginning of the editing.
    pub(crate) heads: Vec<String>,
    pub(crate) before: String,
    pub(crate) after: String,
}

/// Marks a command that is performed for another process.
#[derive(Clone)]
pub(crate) struct Hosted {
    pub(crate) store: Store,
    pub(crate) request: Arc<Request>,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Hosted {
    pub(crate) fn is_confirmed(&self) -> bool {
        self.request.is_confirmed
    }

    pub(crate) fn draft(&self) -> Option<&Draft> {
        self.request.draft.as_ref()
    }

    /// Resolves a path of the command line.
    pub(crate) fn path(&self, given: &std::path::Path) -> PathBuf {
        self.request.folder.join(given)
    }
}
