//! Tracks whether this thread is inside an application's closure that changes documents.
//!
//! Such a closure runs while its documents' writer rights are held, so a second `change`, group or
//! `close` on the same thread could wait for a thread that waits for this one. It returns a typed error
//! instead, for any document and store. Reads are allowed: they never wait for a closure (`loading`).

use std::cell::Cell;
use std::marker::PhantomData;

use crate::error::ChangeError;

thread_local! {
    static CHANGING: Cell<bool> = const { Cell::new(false) };
}

/// This thread changes documents, from before the closure until after the commit.
pub(crate) struct Changing {
    /// The mark belongs to the thread, so it must be dropped on the same thread.
    not_send: PhantomData<*const ()>,
}

impl Changing {
    pub(crate) fn enter() -> Result<Self, ChangeError> {
        match CHANGING.replace(true) {
            true => Err(ChangeError::Reentrant),
            false => Ok(Self { not_send: PhantomData }),
        }
    }

    /// Whether the calling thread changes documents.
    pub(crate) fn is_here() -> bool {
        CHANGING.get()
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.set(false);
    }
}
