//! An OpenID Connect issuer on loopback that answers well, badly, slowly or not at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// How the issuer answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// Its configuration, and this set of keys.
    Keys(String),
    /// Nothing, until the answer is changed.
    Nothing,
    /// A body of 50 MB.
    Huge,
    /// Its configuration and this set of keys, with another status than 200.
    Status(StatusCode, String),
    /// Another place.
    Redirect(String),
    /// The configuration of another issuer, and this set of keys.
    OtherIssuer(String),
    /// A configuration with this `jwks_uri`.
    KeysAt(String),
    /// Not JSON.
    Text,
}

/// The state that the connections share.
struct Shared {
    answer: Mutex<Answer>,
    changed: Notify,
    requested: Notify,
    fetches: AtomicUsize,
    megabytes: AtomicUsize,
    url: String,
}

/// The issuer. It is dead once dropped.
pub(super) struct IssuerServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for IssuerServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl IssuerServer {
    /// Over HTTP, on a free port.
    pub(super) async fn start(answer: Answer) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer, None).await
    }

    /// Over HTTPS, with a certificate for `localhost`.
    pub(super) async fn start_tls(
        answer: Answer,
        certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
    ) -> Self {
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer, Some(acceptor)).await
    }

    async fn start_at(address: SocketAddr, answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let url = match &tls {
            None => format!("http://{address}/realm"),
            Some(_) => format!("https://localhost:{}/realm", address.port()),
        };
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            changed: Notify::new(),
            requested: Notify::new(),
            fetches: AtomicUsize::new(0),
            megabytes: AtomicUsize::new(0),
            url,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), tls));
        Self { shared, address, accepting }
    }

    /// Kills it, and returns how to start it again at the same place.
    pub(super) async fn kill(self) -> SocketAddr {
        self.accepting.abort();
        let address = self.address;
        // The listener is closed once the task is gone.
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        address
    }

    pub(super) async fn restart(address: SocketAddr, answer: Answer) -> Self {
        Self::start_at(address, answer, None).await
    }

    pub(super) fn url(&self) -> String {
        self.shared.url.clone()
    }

    pub(super) fn answer(&self, answer: Answer) {
        *self.shared.answer.lock() = answer;
        self.shared.changed.notify_waiters();
    }

    /// Completes at the next request.
    pub(super) async fn requested(&self) {
        self.shared.requested.notified().await;
    }

    /// How often the configuration was requested, with which each fetch begins.
    pub(super) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// How many megabytes of a huge answer were taken.
    pub(super) fn megabytes(&self) -> usize {
        self.shared.megabytes.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                // A client that does not trust the certificate hangs up.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.respond(request.uri().path()).await) }
    });
    // A client that hangs up early is one of the cases.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    async fn respond(self: &Arc<Self>, path: &str) -> Response<Body> {
        let is_discovery = path == "/realm/.well-known/openid-configuration";
        assert!(is_discovery || path == "/realm/keys", "{path}");
        self.fetches.fetch_add(usize::from(is_discovery), Ordering::SeqCst);
        self.requested.notify_one();
        loop {
            let changed = self.changed.notified();
            let answer = self.answer.lock().clone();
            let keys_at = format!("{}/keys", self.url);
            return match answer {
                Answer::Nothing => {
                    changed.await;
                    continue;
                }
                Answer::Keys(_) if is_discovery => self.configuration(&self.url, &keys_at),
                Answer::Keys(keys) => Response::new(keys.into()),
                Answer::Huge if is_discovery => self.configuration(&self.url, &keys_at),
                Answer::Huge => Response::new(self.huge()),
                Answer::Status(status, keys) => {
                    let mut answer = match is_discovery {
                        true => self.configuration(&self.url, &keys_at),
                        false => Response::new(keys.into()),
                    };
                    *answer.status_mut() = status;
                    answer
                }
                Answer::Redirect(to) => Response::builder()
                    .status(StatusCode::FOUND)
                    .header(header::LOCATION, to)
                    .body(Body::empty())
                    .unwrap(),
                Answer::OtherIssuer(_) if is_discovery => {
                    self.configuration("https://other.example", &keys_at)
                }
                Answer::OtherIssuer(keys) => Response::new(keys.into()),
                Answer::KeysAt(place) => self.configuration(&self.url, &place),
                Answer::Text => Response::new("<html>".into()),
            };
        }
    }

    fn configuration(&self, issuer: &str, keys_at: &str) -> Response<Body> {
        let value: Value = json!({ "issuer": issuer, "jwks_uri": keys_at, "more": [1, 2] });
        Response::new(value.to_string().into())
    }

    fn huge(self: &Arc<Self>) -> Body {
        let shared = Arc::clone(self);
        let megabytes = (0..50).map(move |_| {
            shared.megabytes.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Bytes::from(vec![b' '; 1 << 20]))
        });
        Body::from_stream(futures_util::stream::iter(megabytes))
    }
}
