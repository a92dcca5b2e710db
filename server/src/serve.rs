//! The server: accepts connections on a given listener, and shuts down in order. It must not know what a
//! frame or a change is.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use landfall_protocol::Patience;
use landfall_protocol::{Epoch, limits as shared};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, error, info, warn};

use crate::allocator;
use crate::automerge_repo;
use crate::backups::{self, BackupOptions};
use crate::budgets::Budgets;
use crate::checks::Checks;
use crate::compaction::{CompactionOptions, Compactor};
use crate::connection::RelayState;
use crate::connection::bindings::Bindings;
use crate::connection::slots::{Caps, ConnectionSlots};
use crate::fan_out::FanOut;
use crate::health::Health;
use crate::http::{self, Guard, HttpState, Peer};
use crate::hub::{Hub, HubEnd, HubParts, Rings};
use crate::identity::{Identities, IdentityError, IdentityOptions};
use crate::limits;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::operators::OperatorListener;
use crate::partial_uploads::PartialUploads;
use crate::quota::Quota;
use crate::repairs::RepairContext;
use crate::store::{Condition, LogStore, OpenStoreError, SqliteStore, StoreError};
use crate::tasks;
use crate::turns::Turns;

/// How a relay serves. Change single fields of [`ServeOptions::new`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The folder that holds the store. Created with owner-only permissions if it is missing.
    pub data: PathBuf,
    /// Origins whose pages may connect, as browsers write them (`https://app.example`), besides loopback
    /// origins and the relay's own page. Default none.
    pub allow_origins: Vec<String>,
    /// Whether requests with any address as `Host` are accepted although the relay authenticates no client.
    /// Default false: loopback only. True exposes every document to every client that reaches the port.
    pub insecure_open: bool,
    /// How a peer's silence is measured. Default 15 s to a ping, 30 s to the end, 10 s for hello. Too
    /// short, and sleeping laptops and slow links are cut; too long, and peers that vanished hold their
    /// session.
    pub patience: Patience,
    /// How long a write may make no progress before the session is dropped. Default 60 s. Any byte counts
    /// as progress. Too short, and a phone in a tunnel is cut; too long, and a stuck peer holds its pages.
    pub stall: Duration,
    /// How long a connection may live that does not become a session. Default 120 s. Too short, and the
    /// page does not get through a slow link; too long, and peers that do not read keep their places.
    pub http_life: Duration,
    /// How long the relay keeps reading from a connection that it closed. Default 1 s. Too short, and a
    /// peer that was still sending may see a reset instead of the reason; too long, and peers that do not
    /// hang up hold their place.
    pub linger: Duration,
    /// Names under which the relay may be reached besides loopback names, such as `relay.example`; with
    /// [`insecure_open`](Self::insecure_open) addresses need none. Default none.
    pub allow_hosts: Vec<String>,
    /// Concurrent connections. Default 4,096; the relay answers further ones with 503, except for health
    /// and metrics. Beyond the process's limit of open files, accepting fails and is retried.
    pub connections: usize,
    /// Concurrent connections of one address, or of one /64 of IPv6. Default 1,024. Behind a proxy, all
    /// clients have the proxy's address: set it as high as `connections`.
    pub connections_of_address: usize,
    /// Bytes of live entries kept in memory for each space in use. Default 2 MiB. Too small, and sessions
    /// that are a little behind read the store; too large, and memory grows with the spaces.
    pub ring_bytes: usize,
    /// Bytes that all sessions together may hold. Default 256 MiB, at least [`limits::LEAST_MEMORY`].
    pub memory: usize,
    /// How long a partial snapshot upload is kept after its connection ended. Default 10 min; it is evicted
    /// earlier when others need its memory. Too short, and clients whose link broke start over; too long,
    /// and an idle relay keeps uploads that no client resumes.
    pub uploads_kept: Duration,
    /// How documents are compacted. By default they are not: the caller names the worker.
    pub compactions: CompactionOptions,
    /// How clients are identified. By default they are not.
    pub identity: IdentityOptions,
    /// Where operators read health and metrics. Default none: they read them where clients connect, and a
    /// relay that identifies its clients serves no metrics.
    pub operators: Option<OperatorListener>,
    /// Scheduled backups of the store in [`data`](Self::data). Default none.
    pub backups: Option<BackupOptions>,
    /// How long a shutdown may take. Default 10 s. Pushes that are not settled by then are not
    /// acknowledged, and their authors push them again.
    pub drain: Duration,
}

impl ServeOptions {
    /// The defaults, over a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            allow_origins: Vec::new(),
            insecure_open: false,
            allow_hosts: Vec::new(),
            patience: Patience::default(),
            stall: limits::STALL,
            http_life: limits::HTTP_LIFE,
            linger: limits::LINGER,
            connections: limits::CONNECTIONS,
            connections_of_address: limits::CONNECTIONS_OF_ADDRESS,
            ring_bytes: shared::RING_BYTES,
            memory: limits::MEMORY_BYTES,
            uploads_kept: limits::UPLOADS_KEPT,
            compactions: CompactionOptions::default(),
            identity: IdentityOptions::default(),
            operators: None,
            backups: None,
            drain: limits::DRAIN,
        }
    }
}

/// Why serving ended, or did not begin.
#[derive(Debug, Error)]
pub enum ServeError {
    /// User or disk: the store was not opened.
    #[error("the store could not be opened")]
    Open(#[from] OpenStoreError),
    /// System: the hub's thread could not be started.
    #[error("the hub's thread could not be started")]
    Thread(#[source] std::io::Error),
    /// User: clients cannot be identified as the options say.
    #[error("the identification of clients is not configured")]
    Identity(#[from] IdentityError),
    /// System: no randomness for a new epoch.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
    /// Disk: the store did not close cleanly. All acknowledged changes are on disk nevertheless.
    #[error("the store did not close cleanly")]
    Close(#[source] StoreError),
    /// Disk or peers: not everything was settled within [`ServeOptions::drain`].
    #[error("stopping took longer than {limit:?}; clients push unacknowledged changes again")]
    Drain {
        /// The time that was allowed.
        limit: Duration,
    },
    /// User or disk: the store's files were removed, renamed, replaced or overwritten while it was served.
    /// The relay has acknowledged nothing since it noticed.
    #[error("the store's files are gone: {0}")]
    Gone(String),
    /// Disk: an fsync failed. Until the store is opened again, no write is known to be on the disk.
    #[error("an fsync of the store failed: {0}")]
    Fsync(String),
    /// Our bug: a thread without which the relay cannot serve ended. The log says where.
    #[error("the relay failed: {0} ended; please report the log lines")]
    Ended(Essential),
}

/// A part without which the relay cannot serve. If it ends, the relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Essential {
    /// The thread that orders pushes, `hub`.
    Hub,
    /// One of the compaction threads, `compaction-1` and `compaction-2`.
    Compaction,
    /// The store's thread, `storage-writer`.
    Writer,
    /// The task that accepts connections.
    Accept,
    /// A thread of the blocking pool, while it opened or closed the store.
    Store,
}

impl std::fmt::Display for Essential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hub => "its hub",
            Self::Compaction => "its compaction thread",
            Self::Writer => "its store's writer thread",
            Self::Accept => "its accept loop",
            Self::Store => "opening or closing its store",
        })
    }
}

/// Serves until `shutdown` completes, then drains: closes the sessions with a reason, commits and
/// acknowledges the accepted pushes, and closes the store.
///
/// # Errors
///
/// See [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let data = options.data.clone();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&data)).await;
    let store = opened.map_err(|_| ServeError::Ended(Essential::Store))??;
    serve_with_store(listener, options, Arc::new(store), shutdown).await
}

/// As [`serve`], over the caller's store; [`ServeOptions::data`] is ignored.
///
/// # Errors
///
/// See [`ServeError`].
pub async fn serve_with_store(
    listener: TcpListener,
    options: ServeOptions,
    store: Arc<dyn LogStore>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut server = Server::start(&options, Arc::clone(&store))?;
    let compactor = Arc::clone(&server.compactor);
    // Unwind safety: `stop` uses only state that is shared with other threads anyway.
    let traffic = Arc::clone(&server.http_state.sessions.metrics);
    let trimming =
        tasks::keep("trimming", move || allocator::trim_on_traffic(Arc::clone(&traffic)));
    let copying = options.backups.clone().map(|backups| {
        let metrics = Arc::clone(&server.http_state.sessions.metrics);
        let data = options.data.clone();
        let store = server.http_state.sessions.upstream;
        tasks::keep("backups", move || {
            backups::run(backups.clone(), data.clone(), store, Arc::clone(&metrics))
        })
    });
    let state = Arc::clone(&server.http_state.sessions);
    let looking = tasks::keep("identity-files", move || {
        let state = Arc::clone(&state);
        async move { state.identities.watch_files().await }
    });
    let operators = options.operators.clone().map(|listener| {
        let router = http::operators_router(Arc::clone(&server.http_state));
        tasks::keep("operators", move || listener.clone().serve(router.clone()))
    });
    let end = AssertUnwindSafe(server.accept(listener, shutdown)).catch_unwind().await;
    trimming.abort();
    looking.abort();
    copying.iter().for_each(tokio::task::JoinHandle::abort);
    operators.iter().for_each(tokio::task::JoinHandle::abort);
    let end = end.unwrap_or(AcceptEnd::Ended(Essential::Accept));
    let drained = server.stop(end, options.drain).await;
    // Also after a panic or a timeout: write the store's queued jobs and release its lock.
    let closed = tokio::task::spawn_blocking(move || {
        compactor.close();
        store.close()
    });
    let closed = closed.await;
    drained?;
    match closed {
        Ok(Err(error)) if error.is_gone() => Err(ServeError::Gone(error.chain())),
        Ok(closed) => closed.map_err(ServeError::Close),
        Err(_) => Err(ServeError::Ended(Essential::Store)),
    }
}

/// A running relay.
struct Server {
    http_state: Arc<HttpState>,
    hub: Hub,
    hub_end: oneshot::Receiver<HubEnd>,
    /// Completes when the compaction thread ends.
    compaction_end: oneshot::Receiver<()>,
    compactor: Arc<Compactor>,
    stop: watch::Sender<bool>,
    connection_slots: Arc<ConnectionSlots>,
    http_life: Duration,
}

/// Why accepting ended.
#[derive(PartialEq, Eq)]
enum AcceptEnd {
    Shutdown,
    /// An essential part ended unexpectedly.
    Ended(Essential),
    /// The store takes no more writes until it is opened again.
    StoreEnded(StoreEnd),
}

/// Why a store takes no more writes.
#[derive(Debug, PartialEq, Eq)]
enum StoreEnd {
    Gone(String),
    Fsync(String),
    WriterPanicked,
}

impl StoreEnd {
    fn of(store: &dyn LogStore) -> Option<Self> {
        let Condition { gone, fsync_failed, writer_panicked, .. } = store.condition();
        let gone = gone.map(Self::Gone).or_else(|| fsync_failed.map(Self::Fsync));
        gone.or_else(|| writer_panicked.map(|_| Self::WriterPanicked))
    }
}

impl From<StoreEnd> for ServeError {
    fn from(end: StoreEnd) -> Self {
        match end {
            StoreEnd::Gone(what) => Self::Gone(what),
            StoreEnd::Fsync(what) => Self::Fsync(what),
            StoreEnd::WriterPanicked => Self::Ended(Essential::Writer),
        }
    }
}

fn fresh_epoch() -> Result<Epoch, ServeError> {
    let mut epoch = [0; 16];
    getrandom::fill(&mut epoch).map_err(ServeError::Randomness)?;
    Ok(Epoch::from_bytes(epoch))
}

fn http_state(
    options: &ServeOptions,
    health: Arc<Health>,
    sessions: Arc<RelayState>,
    compactor: &Arc<Compactor>,
) -> Arc<HttpState> {
    let (allow_origins, allow_hosts) = (options.allow_origins.clone(), options.allow_hosts.clone());
    let (any_address, needs_token) = (options.insecure_open, options.identity.is_required());
    let guard = Guard { allow_origins, allow_hosts, any_address, needs_token };
    let automerge_repo =
        automerge_repo::SharedState::new(Arc::clone(&sessions), Arc::clone(compactor));
    let last_session = AtomicU64::new(0);
    Arc::new(HttpState { guard, health, sessions, automerge_repo, last_session })
}

impl Server {
    fn start(options: &ServeOptions, store: Arc<dyn LogStore>) -> Result<Self, ServeError> {
        let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
        let memory = Memory::new(options.memory);
        let rings = Rings::new(memory.clone());
        let compactions = options.compactions.clone();
        let compactor =
            Compactor::start(Arc::clone(&store), Arc::clone(&metrics), compactions, memory.clone());
        let (compactor, compaction_end) = compactor.map_err(ServeError::Thread)?;
        let fan_out = Arc::new(FanOut::new(Arc::clone(&metrics)));
        let page_reads = Turns::new(limits::PAGE_READS);
        let digests = Budgets::new(limits::DIGEST_RATE, limits::DIGEST_BURST);
        let repairs = RepairContext::new(&store, &fan_out, &metrics, &page_reads).start();
        compactor.repair_with(Arc::clone(&repairs));
        let parts = HubParts {
            compactor: Arc::clone(&compactor),
            fan_out: Arc::clone(&fan_out),
            repairs: Arc::clone(&repairs),
            runtime: tokio::runtime::Handle::current(),
            store: Arc::clone(&store),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            ring_bytes: options.ring_bytes,
            rings: Arc::clone(&rings),
            epoch: fresh_epoch()?,
        };
        let (hub, hub_end) = Hub::start(parts).map_err(ServeError::Thread)?;
        let partial_uploads = Arc::new(PartialUploads::default());
        give_way(rings, &partial_uploads, options.uploads_kept);
        let for_compactions = hub.clone();
        compactor.before_compaction(Box::new(move |space, through| {
            for_compactions.compaction(space.clone(), through)
        }));
        let (stop, stopping) = watch::channel(false);
        let sessions = Arc::new(RelayState {
            identities: Identities::new(&options.identity)?,
            replicas: Bindings::default(),
            unidentified: Quota::new(limits::UNIDENTIFIED, limits::UNIDENTIFIED_OF_ADDRESS),
            hub: hub.clone(),
            upstream: store.upstream(),
            store,
            metrics,
            memory,
            addresses_differ: options.connections_of_address < options.connections,
            patience: options.patience,
            stall: options.stall,
            linger: options.linger,
            stopping,
            checks: Checks::new(limits::CHECKS),
            page_reads,
            subscriptions: Quota::new(limits::SUBSCRIPTIONS, limits::SUBSCRIPTIONS_OF_ADDRESS),
            digests: Turns::within(limits::DIGEST_READS, digests),
            partial_uploads,
            fan_out,
            repairs,
        });
        let http_state = http_state(options, health, sessions, &compactor);
        let (all, of_address) = (options.connections, options.connections_of_address);
        let connection_slots = ConnectionSlots::new(Caps { all, of_address });
        Ok(Self {
            http_state,
            hub,
            hub_end,
            compaction_end,
            compactor,
            stop,
            connection_slots,
            http_life: options.http_life,
        })
    }

    async fn accept(
        &mut self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> AcceptEnd {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut ended = std::pin::pin!(self.store_ended());
        let router = http::router(Arc::clone(&self.http_state));
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => {
                    let ended = StoreEnd::of(&*self.http_state.sessions.store);
                    return ended.map_or(AcceptEnd::Shutdown, AcceptEnd::StoreEnded);
                }
                ended = &mut ended => return AcceptEnd::StoreEnded(ended),
                _ = &mut self.hub_end => return AcceptEnd::Ended(Essential::Hub),
                _ = &mut self.compaction_end => return AcceptEnd::Ended(Essential::Compaction),
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.connection_slots.take(address.ip()) {
                Some(slot) => {
                    let until = Instant::now() + self.http_life;
                    let peer = Peer { address, slot: Arc::new(slot), until };
                    tokio::spawn(serve_connection(
                        stream,
                        peer,
                        self.http_life,
                        router.clone(),
                        self.stop.subscribe(),
                    ));
                }
                None => self.turn_away(&stream, address),
            }
        }
    }

    /// Completes some time after the store has taken its last write: until then `/readyz` and the answers
    /// to pushes give the reason.
    fn store_ended(&self) -> impl Future<Output = StoreEnd> + use<> {
        let store = Arc::clone(&self.http_state.sessions.store);
        async move {
            loop {
                sleep(limits::STORE_ENDED_LOOK).await;
                let Some(end) = StoreEnd::of(&*store) else { continue };
                error!(
                    ?end,
                    "the store accepts no more writes: the relay acknowledges nothing more and ends"
                );
                sleep(limits::STORE_ENDED_GRACE).await;
                return end;
            }
        }
    }

    fn turn_away(&self, stream: &TcpStream, address: SocketAddr) {
        self.http_state.sessions.metrics.request_refused("full");
        warn!(peer = %address, "rejected a connection: the maximum number is open");
        let answer =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        // A new socket's buffer has room for this; if not, the close is enough.
        let _ = stream.try_write(answer);
    }

    async fn stop(self, end: AcceptEnd, limit: Duration) -> Result<(), ServeError> {
        self.http_state.health.stopping();
        // Notifies sessions and idle connections; an error means that there are none.
        let _ = self.stop.send(true);
        match &end {
            AcceptEnd::StoreEnded(end) => {
                error!(?end, "stopping: the store accepts no more writes")
            }
            AcceptEnd::Ended(what) => error!(%what, "stopping: an essential thread ended"),
            AcceptEnd::Shutdown => info!("stopping"),
        }
        if end == AcceptEnd::Ended(Essential::Hub) {
            // Without the hub nothing can be settled: only give the sessions time to send their close
            // reason.
            let _ =
                timeout_at(Instant::now() + limits::LINGER, self.connection_slots.empty()).await;
            return Err(ServeError::Ended(Essential::Hub));
        }
        let deadline = Instant::now() + limit;
        let all_gone = timeout_at(deadline, self.connection_slots.empty()).await.is_ok();
        self.compactor.end_jobs();
        self.hub.shutdown();
        match timeout_at(deadline, self.hub_end).await {
            _ if let AcceptEnd::StoreEnded(end) = end => Err(end.into()),
            _ if let AcceptEnd::Ended(what) = end => Err(ServeError::Ended(what)),
            Ok(Ok(HubEnd::Drained)) if all_gone => {
                info!("stopped");
                Ok(())
            }
            Ok(Ok(HubEnd::Drained)) | Err(_) => Err(ServeError::Drain { limit }),
            Ok(_) => Err(ServeError::Ended(Essential::Hub)),
        }
    }
}

/// Makes caches and idle uploads release their memory while reservations wait, and removes old idle
/// uploads. It ends with the runtime: a relay that is stopping needs none of that memory.
fn give_way(rings: Arc<Rings>, partial_uploads: &Arc<PartialUploads>, kept: Duration) {
    let (left, givers) = (Arc::clone(partial_uploads), Arc::clone(partial_uploads));
    tasks::keep("rings", move || {
        let (rings, givers) = (Arc::clone(&rings), Arc::clone(&givers));
        async move { rings.give_way(&givers).await }
    });
    tasks::keep("partial-uploads", move || {
        let left = Arc::clone(&left);
        async move { left.forget_old(kept).await }
    });
}

/// Serves one connection until it is closed or becomes a session.
async fn serve_connection(
    stream: TcpStream,
    peer: Peer,
    life: Duration,
    router: axum::Router,
    mut stop: watch::Receiver<bool>,
) {
    // Frames are small, and peers wait for them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let address = peer.address;
    let life = if peer.slot.is_reserved() { life.min(limits::KEPT_LIFE) } else { life };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(http::answer(router, request).await) }
    });
    let connection =
        http::connection_builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // The peer sends its request slowly, or does not read its answer.
        () = sleep(life) => return debug!(peer = %address, "a connection took too long"),
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            // Completes a request in progress, but does not wait longer for an endless head.
            let Ok(ended) = timeout(limits::FLUSH, connection).await else { return };
            ended
        }
    };
    if let Err(error) = ended {
        debug!(peer = %address, %error, "a connection ended with an error");
    }
}
