//! The machine against real automerge peers.
