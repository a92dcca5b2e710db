//! A small TCP proxy, as a network that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// A proxy in front of a relay. Its traffic is bounded by the data that its test sends.
#[derive(Debug)]
pub struct Proxy {
    /// The URL for clients: `ws://127.0.0.1:PORT`.
    pub url: String,
    shared: Arc<Shared>,
    /// Dropping it ends all connections.
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Bytes until the connections are cut; negative for never.
    budget: AtomicI64,
    swallowing: AtomicBool,
    cut: Notify,
    connections: AtomicU64,
    forwarded: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of a local port.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the proxy");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("the listener is bound"));
        let shared = Arc::new(Shared {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            budget: AtomicI64::new(-1),
            swallowing: AtomicBool::new(false),
            cut: Notify::new(),
            connections: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, _runtime: runtime }
    }

    /// Cuts every connection now.
    pub fn cut(&self) {
        self.shared.cut.notify_waiters();
    }

    /// Cuts every connection after this many more bytes, both directions together.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.budget.store(bytes as i64, Ordering::SeqCst);
    }

    /// If true, reads everything from now on, forwards nothing and closes nothing.
    pub fn swallow(&self, swallowing: bool) {
        self.shared.swallowing.store(swallowing, Ordering::SeqCst);
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The number of bytes forwarded so far, both directions together.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(shared.target).await else { return };
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::select! {
                () = pump(client_in, server_out, &shared) => {}
                () = pump(server_in, client_out, &shared) => {}
                () = shared.cut.notified() => {}
            }
        });
    }
}

/// Forwards bytes until one side closes or the byte budget is used up exactly.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            if shared.swallowing.load(Ordering::SeqCst) {
                // The other side must not notice the close either.
                std::future::pending::<()>().await;
            }
            return;
        }
        if shared.swallowing.load(Ordering::SeqCst) {
            continue;
        }
        let mut allowed = read;
        if shared.budget.load(Ordering::SeqCst) >= 0 {
            let left = shared.budget.fetch_sub(read as i64, Ordering::SeqCst);
            allowed = read.min(left.max(0) as usize);
        }
        if to.write_all(&buffer[..allowed]).await.is_err() {
            return;
        }
        shared.forwarded.fetch_add(allowed as u64, Ordering::SeqCst);
        if allowed < read {
            shared.budget.store(-1, Ordering::SeqCst);
            shared.cut.notify_waiters();
            return;
        }
    }
}
