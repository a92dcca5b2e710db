//! Landfall's relay: stores and forwards the changes of automerge documents, without ever loading one
