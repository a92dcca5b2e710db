//! The server: accepts connections on a listener that it is given, and stops in good order.

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
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use landfall_protocol::session::Patience;
use landfall_protocol::{Epoch, limits as shared};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, error, info, warn};

use crate::allocator;
use crate::backups::{self, BackupOptions};
use crate::budgets::Budgets;
use crate::checks::Checks;
use crate::folding::{FoldOptions, Folder};
use crate::healing::Desk;
use crate::health::Health;
use crate::http::{self, Door, Guard, Peer};
use crate::hub::{Hub, HubEnd, Parts, Rings};
use crate::limits;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::offers::Offers;
use crate::places::{Caps, Places};
use crate::quota::Quota;
use crate::rooms::Rooms;
use crate::session::Shared;
use crate::store::{Condition, LogStore, OpenStoreError, SqliteStore, StoreError};
use crate::tasks;
use crate::turns::Turns;

/// How a relay serves. Change single fields of [`ServeOptions::new`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The folder that holds the store. Made, for its owner only, if there is none.
    pub data: PathBuf,
    /// Origins whose pages may connect, as browsers write them (`https://app.example`), besides
    /// loopback origins and the relay's own page. Default none.
    pub allow_origins: Vec<String>,
    /// Whether requests for any address as `Host` are taken although nobody is asked who they are.
    /// Default false: loopback only. True exposes every document to whoever reaches the port.
    pub insecure_open: bool,
    /// How a peer's silence is measured. Default 15 s to a ping, 30 s to the end, 10 s for hello.
    /// Too short, and sleeping laptops and slow links are cut; too long, and peers that vanished
    /// hold their session.
    pub patience: Patience,
    /// How long a write may make no progress before the session is dropped. Default 60 s. Any
    /// byte counts: short, and a phone in a tunnel is cut; long, and a stuck peer holds its pages.
    pub stall: Duration,
    /// How long a connection may live that does not become a session. Default 120 s. Short, and the
    /// page does not get through a slow link; long, and peers that do not read keep their places.
    pub http_life: Duration,
    /// How long a connection is read on after its close. Default 1 s. Short, and a peer that was
    /// still sending may see a reset instead of the reason; long, and those who do not hang up
    /// hold their place.
    pub linger: Duration,
    /// Names under which the relay may be reached besides loopback names, such as
    /// `relay.example`; with [`insecure_open`](Self::insecure_open) addresses need none. Default none.
    pub allow_hosts: Vec<String>,
    /// Connections at a time. Default 4,096; one more is answered 503, but for health and metrics.
    /// Beyond the process's limit of open files, accepting fails and is tried again.
    pub connections: usize,
    /// Those of one address, or of one /64 of IPv6. Default 1,024. Behind a proxy, which gives all
    /// clients its own address, it is to be as large as `connections`.
    pub connections_of_address: usize,
    /// Bytes of live entries kept in memory for each space in use. Default 2 MiB. Small, and
    /// sessions that are a little behind read the store; large, and memory grows with the spaces.
    pub ring_bytes: usize,
    /// Bytes that sessions may make the relay keep, all together. Default 256 MiB, at least
    /// [`limits::LEAST_MEMORY`].
    pub memory: usize,
    /// How long what arrived of a snapshot is kept after its connection ended. Default 10 min, for nobody
    /// else needs its memory. Short, and clients that were cut begin again; long, and a relay at rest
    /// keeps what nobody comes back for.
    pub uploads_kept: Duration,
    /// How documents are folded. By default nothing is: the caller names the worker.
    pub folds: FoldOptions,
    /// Copies of the store that are made on a schedule, of the store in
    /// [`data`](Self::data). Default none.
    pub backups: Option<BackupOptions>,
    /// How long a shutdown may take. Default 10 s. What is not settled by then is not
    /// acknowledged, and its author will push it again.
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
            folds: FoldOptions::default(),
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
    /// System: no randomness for a new epoch.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
    /// Disk: the store was not closed in good order. What was acknowledged is on disk all the
    /// same.
    #[error("the store did not close cleanly")]
    Close(#[source] StoreError),
    /// Disk or peers: not everything was settled within [`ServeOptions::drain`].
    #[error("stopping took longer than {limit:?}; what was not acknowledged will be pushed again")]
    Drain {
        /// The time that was allowed.
        limit: Duration,
    },
    /// User or disk: the store's files were removed, renamed, replaced or overwritten while it was
    /// served. Nothing was acknowledged since that was noticed.
    #[error("the store's files are gone: {0}")]
    Gone(String),
    /// Disk: an fsync failed, after which nothing that is written can be known to be on the disk
    /// until the store is opened again.
    #[error("an fsync of the store failed: {0}")]
    Fsync(String),
    /// Our bug: a thread without which the relay cannot serve ended. The log says where.
    #[error("the relay failed: {0} ended; please report what the log says")]
    Ended(Essential),
}

/// What a relay cannot serve without. Its end ends the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Essential {
    /// The thread that orders pushes, `hub`.
    Hub,
    /// One of the threads that fold, `fold-1` and `fold-2`.
    Fold,
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
            Self::Fold => "its folding thread",
            Self::Writer => "its store's writer thread",
            Self::Accept => "its accept loop",
            Self::Store => "opening or closing its store",
        })
    }
}

/// Serves until `shutdown` comes, then drains: sessions are told, what was taken is committed and
/// acknowledged, the store is closed.
///
/// # Errors
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

/// As [`serve`], over a store of the caller's; [`ServeOptions::data`] is not looked at.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve_with_store(
    listener: TcpListener,
    options: ServeOptions,
    store: Arc<dyn LogStore>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut server = Server::start(&options, Arc::clone(&store))?;
    let folder = Arc::clone(&server.folder);
    // Unwind safety: `stop` uses only what is shared with other threads anyway.
    let traffic = Arc::clone(&server.door.sessions.metrics);
    let trimming =
        tasks::keep("trimming", move || allocator::trim_on_traffic(Arc::clone(&traffic)));
    let copying = options.backups.clone().map(|backups| {
        let metrics = Arc::clone(&server.door.sessions.metrics);
        let data = options.data.clone();
        let store = server.door.sessions.upstream;
        tasks::keep("backups", move || {
            backups::run(backups.clone(), data.clone(), store, Arc::clone(&metrics))
        })
    });
    let end = AssertUnwindSafe(server.accept(listener, shutdown)).catch_unwind().await;
    trimming.abort();
    copying.iter().for_each(tokio::task::JoinHandle::abort);
    let end = end.unwrap_or(AcceptEnd::Ended(Essential::Accept));
    let drained = server.stop(end, options.drain).await;
    // Also after a panic or a timeout: what is queued in the store is written, the lock let go.
    let closed = tokio::task::spawn_blocking(move || {
        folder.close();
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
    door: Arc<Door>,
    hub: Hub,
    hub_end: oneshot::Receiver<HubEnd>,
    /// Completes when the folding thread ends.
    fold_end: oneshot::Receiver<()>,
    folder: Arc<Folder>,
    stop: watch::Sender<bool>,
    places: Arc<Places>,
    http_life: Duration,
}

/// Why accepting ended.
#[derive(PartialEq, Eq)]
enum AcceptEnd {
    Shutdown,
    /// Something essential ended that should not have.
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

impl Server {
    fn start(options: &ServeOptions, store: Arc<dyn LogStore>) -> Result<Self, ServeError> {
        let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
        let memory = Memory::new(options.memory);
        let rings = Rings::new(memory.clone());
        let mut epoch = [0; 16];
        getrandom::fill(&mut epoch).map_err(ServeError::Randomness)?;
        let folds = options.folds.clone();
        let folder = Folder::start(Arc::clone(&store), Arc::clone(&metrics), folds, memory.clone());
        let (folder, fold_end) = folder.map_err(ServeError::Thread)?;
        let rooms = Arc::new(Rooms::new(Arc::clone(&metrics)));
        let page_reads = Turns::new(limits::PAGE_READS);
        let digests = Budgets::new(limits::DIGEST_RATE, limits::DIGEST_BURST);
        let healing = Desk::new(&store, &rooms, &metrics, &page_reads).start();
        folder.heal_with(Arc::clone(&healing));
        let parts = Parts {
            folder: Arc::clone(&folder),
            rooms: Arc::clone(&rooms),
            healing: Arc::clone(&healing),
            runtime: tokio::runtime::Handle::current(),
            store: Arc::clone(&store),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            ring_bytes: options.ring_bytes,
            rings: Arc::clone(&rings),
            epoch: Epoch::from_bytes(epoch),
        };
        let (hub, hub_end) = Hub::start(parts).map_err(ServeError::Thread)?;
        let offers = Arc::new(Offers::default());
        give_way(rings, &offers, options.uploads_kept);
        let for_folds = hub.clone();
        folder
            .before_fold(Box::new(move |space, through| for_folds.folding(space.clone(), through)));
        let (stop, stopping) = watch::channel(false);
        let sessions = Arc::new(Shared {
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
            offers,
            rooms,
            healing,
            repo: crate::repo::Common::new(Arc::clone(&folder)),
        });
        let (allow_origins, allow_hosts) =
            (options.allow_origins.clone(), options.allow_hosts.clone());
        let guard = Guard { allow_origins, allow_hosts, any_address: options.insecure_open };
        let door = Arc::new(Door { guard, health, sessions, last_session: AtomicU64::new(0) });
        let (all, of_address) = (options.connections, options.connections_of_address);
        let places = Places::new(Caps { all, of_address });
        Ok(Self {
            door,
            hub,
            hub_end,
            fold_end,
            folder,
            stop,
            places,
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
        let router = http::router(Arc::clone(&self.door));
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => {
                    let ended = StoreEnd::of(&*self.door.sessions.store);
                    return ended.map_or(AcceptEnd::Shutdown, AcceptEnd::StoreEnded);
                }
                ended = &mut ended => return AcceptEnd::StoreEnded(ended),
                _ = &mut self.hub_end => return AcceptEnd::Ended(Essential::Hub),
                _ = &mut self.fold_end => return AcceptEnd::Ended(Essential::Fold),
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.places.take(address.ip()) {
                Some(place) => {
                    let until = Instant::now() + self.http_life;
                    let peer = Peer { address, place: Arc::new(place), until };
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

    /// Comes back some time after the store has taken its last write: until then `/readyz` and the
    /// answers to pushes say why.
    fn store_ended(&self) -> impl Future<Output = StoreEnd> + use<> {
        let store = Arc::clone(&self.door.sessions.store);
        async move {
            loop {
                sleep(limits::STORE_ENDED_LOOK).await;
                let Some(end) = StoreEnd::of(&*store) else { continue };
                error!(
                    ?end,
                    "the store takes no more writes: nothing is acknowledged, the relay ends"
                );
                sleep(limits::STORE_ENDED_GRACE).await;
                return end;
            }
        }
    }

    fn turn_away(&self, stream: &TcpStream, address: SocketAddr) {
        self.door.sessions.metrics.request_refused("full");
        warn!(peer = %address, "turned away: as many connections as allowed are open");
        let answer =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        // A new socket has room for this; if not, closing it says enough.
        let _ = stream.try_write(answer);
    }

    async fn stop(self, end: AcceptEnd, limit: Duration) -> Result<(), ServeError> {
        self.door.health.stopping();
        // Sessions and idle connections hear it; nobody listens if there are none.
        let _ = self.stop.send(true);
        match &end {
            AcceptEnd::StoreEnded(end) => error!(?end, "stopping: the store takes no more writes"),
            AcceptEnd::Ended(what) => error!(%what, "stopping: something essential ended"),
            AcceptEnd::Shutdown => info!("stopping"),
        }
        if end == AcceptEnd::Ended(Essential::Hub) {
            // Nothing can be settled: long enough for sessions to be told.
            let _ = timeout_at(Instant::now() + limits::LINGER, self.places.empty()).await;
            return Err(ServeError::Ended(Essential::Hub));
        }
        let deadline = Instant::now() + limit;
        let all_gone = timeout_at(deadline, self.places.empty()).await.is_ok();
        self.folder.end_jobs();
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

/// Has caches, and what arrived of snapshots whose sender is gone, give way to what needs their memory; and
/// forgets the latter after a time. It ends with the runtime: while the relay is stopped nobody needs what
/// they hold.
fn give_way(rings: Arc<Rings>, offers: &Arc<Offers>, kept: Duration) {
    let (left, givers) = (Arc::clone(offers), Arc::clone(offers));
    tasks::keep("rings", move || {
        let (rings, givers) = (Arc::clone(&rings), Arc::clone(&givers));
        async move { rings.give_way(&givers).await }
    });
    tasks::keep("offers", move || {
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
    // Frames are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY could not be set");
    }
    let address = peer.address;
    let life = if peer.place.is_kept() { life.min(limits::KEPT_LIFE) } else { life };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(http::answer(router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_buf_size(limits::HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // It asks slowly, or does not read its answer.
        () = sleep(life) => return debug!(peer = %address, "a connection took too long"),
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            // A request that is being answered is finished; a head that never ends is not.
            let Ok(ended) = timeout(limits::FLUSH, connection).await else { return };
            ended
        }
    };
    if let Err(error) = ended {
        debug!(peer = %address, %error, "a connection ended with an error");
    }
}
