//! Runs a relay in the test process, for settings without a command-line option: short timeouts, and
//! faults of its store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::Patience;
use landfall_relay::store::{LogStore, SqliteStore};
use landfall_relay::{ServeOptions, serve_with_store};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A relay that stops when its handle is dropped.
#[derive(Debug)]
pub struct Embedded {
    /// Its URL: `ws://127.0.0.1:PORT`.
    pub url: String,
    /// Its port.
    pub port: u16,
    /// Dropping it ends the relay with all its sessions.
    _runtime: Runtime,
}

impl Embedded {
    /// Starts a relay on a data folder. It pings a silent peer after `ping_after` and drops it after
    /// `drop_after`.
    ///
    /// # Panics
    /// If the relay does not start.
    pub fn start(data: &Path, ping_after: Duration, drop_after: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the relay");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        let mut options = ServeOptions::new(data);
        options.patience = Patience { ping_after, drop_after, ..Patience::default() };
        let store: Arc<dyn LogStore> = Arc::new(SqliteStore::open(data).expect("a store"));
        runtime.spawn(serve_with_store(listener, options, store, std::future::pending()));
        Self { url: format!("ws://127.0.0.1:{port}"), port, _runtime: runtime }
    }
}
