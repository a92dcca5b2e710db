//! A listener for operators only: health and metrics, on an address that clients do not reach. A relay that
//! identifies its clients serves its metrics nowhere else, since they name spaces.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::http;
use crate::limits;

/// A bound listener for operators.
#[derive(Debug, Clone)]
pub struct OperatorListener {
    listener: Arc<std::net::TcpListener>,
}

impl OperatorListener {
    /// Binds an address; port 0 picks a free port.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: Arc::new(listener) })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// If the system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests without end. Connections beyond [`limits::OPERATOR_CONNECTIONS`] wait.
    pub(crate) async fn serve(self, router: axum::Router) {
        let listener = self.listener.try_clone().and_then(TcpListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "cannot listen for operators"),
        };
        let slots = Arc::new(Semaphore::new(limits::OPERATOR_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream, router.clone(), slot))),
                Err(error) => {
                    warn!(%error, "cannot accept a connection of an operator");
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers the requests of one connection.
async fn answer(stream: TcpStream, router: axum::Router, slot: OwnedSemaphorePermit) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(http::answer(router, request).await) }
    });
    let connection = http::connection_builder().serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(limits::KEPT_LIFE, connection).await {
        debug!(%error, "a connection of an operator ended with an error");
    }
    drop(slot);
}
