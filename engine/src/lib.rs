//! Landfall, an offline-first CRDT sync engine: automerge documents in a local SQLite file, synced through a self-hosted relay
