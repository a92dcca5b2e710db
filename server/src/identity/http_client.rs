//! Fetches small JSON answers from an issuer: over HTTPS, or over HTTP from this machine. It follows no
//! redirects, and reads no more than a given number of bytes.

use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use landfall_protocol::error_chain;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use url::{Host, Url};

use super::{IdentityError, watched};
use crate::limits;

pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

/// Why an answer was not fetched.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("{0} is not an https:// URL, nor an http:// URL of this machine")]
    Scheme(String),
    #[error("{url} could not be fetched: {what}")]
    Transport { url: String, what: String },
    #[error("{url} answered with {status}")]
    Status { url: String, status: StatusCode },
    #[error("the body of {url} broke off or has more than {} bytes: {what}", limits::KEYS_BYTES)]
    Body { url: String, what: String },
}

impl HttpClient {
    /// A client that trusts the certificates of the system, and those of the file.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, IdentityError> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(ca)?)
            .https_or_http()
            .enable_http1()
            .build();
        // Keys are fetched rarely: a kept connection would only break.
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client })
    }

    /// The body of an answer with status 200, at most [`limits::KEYS_BYTES`].
    pub(super) async fn get(&self, url: &Url) -> Result<Bytes, FetchError> {
        check_scheme(url)?;
        let name = url.to_string();
        let transport = |what: String| FetchError::Transport { url: name.clone(), what };
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| transport(error_chain(&error)))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| transport(error_chain(&error)))?;
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(FetchError::Status { url: name, status });
        }
        let body = to_bytes(Body::new(answer.into_body()), limits::KEYS_BYTES as usize).await;
        body.map_err(|error| FetchError::Body { url: name, what: error_chain(&error) })
    }
}

/// Checks that no host on the way can change the answer.
pub(super) fn check_scheme(url: &Url) -> Result<(), FetchError> {
    let is_this_machine = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_this_machine => Ok(()),
        _ => Err(FetchError::Scheme(url.to_string())),
    }
}

fn tls_config(ca: Option<&Path>) -> Result<ClientConfig, IdentityError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some certificates of the system cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(file) = ca {
        add_file(&mut roots, file)?;
    }
    // Named explicitly: the process's default panics if another crate selects a second provider.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| IdentityError::Tls { what: error.to_string() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), IdentityError> {
    let content = watched::read(file, limits::ACCESS_BYTES)?;
    let unusable = |what: String| IdentityError::Certificates { file: file.to_owned(), what };
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&content) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    match roots.len() > before {
        true => Ok(()),
        false => Err(unusable("it has no certificate in PEM".to_owned())),
    }
}
