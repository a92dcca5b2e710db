//! Whether this thread is inside a closure of the application's that changes documents.
//!
//! Such a closure runs while its documents' writer rights are held, so a second `change`, group or
//! `close` on the same thread could wait for another thread that waits for this one. It gets a
//! typed error instead, whatever document or store it names. Reads are allowed: they never wait
//! for a closure (`loading`).

use std::cell::Cell;
use std::marker::PhantomData;

use crate::error::ChangeError;

thread_local! {
    static CHANGING: Cell<bool> = const { Cell::new(false) };
}

/// This thread changes documents, from before the closure until after the commit.
pub(crate) struct Changing {
    /// The mark is the thread's, so it must be taken back on the same thread.
    not_send: PhantomData<*const ()>,
}

impl Changing {
    pub(crate) fn enter() -> Result<Self, ChangeError> {
        match CHANGING.replace(true) {
            true => Err(ChangeError::Reentrant),
            false => Ok(Self { not_send: PhantomData }),
        }
    }

    /// Whether the calling thread does.
    pub(crate) fn is_here() -> bool {
        CHANGING.get()
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.set(false);
    }
}
