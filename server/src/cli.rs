//! The command line of `landfall-relay serve`, for the binary and for programs that carry a relay.
//!
//! Exit codes: 0 stopped in good order; 1 a failure that has no code of its own; 2 wrong usage;
//! 3 cannot listen there; 4 the data folder or the store in it cannot be used; 5 another process
//! uses the store.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::net::TcpListener;

pub use crate::logs::LogFormat;
use crate::serve::{ServeError, ServeOptions, serve_with_store};
use crate::store::{OpenStoreError, SqliteStore, StoreHint, chain};
use crate::{http, logs};

/// What `serve` can be told. Every option has a default and an environment variable.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where to listen: address and port, or `localhost` and port. Port 0 takes a free one
    #[arg(long, env = "LANDFALL_LISTEN", default_value = "127.0.0.1:7600", value_name = "ADDRESS")]
    pub listen: String,
    /// The folder that holds the store; made, for its owner only, if there is none
    #[arg(long, env = "LANDFALL_DATA", default_value = "./landfall-data", value_name = "FOLDER")]
    pub data: PathBuf,
    /// An origin whose pages may connect, such as `https://app.example`; may be repeated
    #[arg(long, env = "LANDFALL_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Serve everybody who reaches the port, without asking who they are
    #[arg(long, env = "LANDFALL_INSECURE_OPEN", value_parser = BoolishValueParser::new())]
    pub insecure_open: bool,
    /// How log lines are written to standard error
    #[arg(long, env = "LANDFALL_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// What ends the process: one line for a person, and a code for a script.
struct Failure {
    line: String,
    code: u8,
}

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const LISTEN: u8 = 3;
const STORE: u8 = 4;
const IN_USE: u8 = 5;

impl Failure {
    fn new(
        code: u8,
        what: impl std::fmt::Display,
        why: impl std::fmt::Display,
        hint: &str,
    ) -> Self {
        let line = format!("{what}; {why}; {hint}");
        // One line, whatever an address or a path was made of.
        Self { line: line.replace(['\n', '\r'], " "), code }
    }
}

/// Serves until SIGTERM or SIGINT. The first line on standard output names the address, once
/// connections are taken.
pub fn run(args: ServeArgs) -> ExitCode {
    logs::start(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve_until_signal(args)),
        Err(error) => Err(Failure::new(
            OTHER,
            "the relay's threads could not be started",
            error,
            "look at the limits of processes and memory",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is closed there is nobody to tell; the code says it.
            let _ = writeln!(io::stderr(), "error: {}", failure.line);
            ExitCode::from(failure.code)
        }
    }
}

async fn serve_until_signal(args: ServeArgs) -> Result<(), Failure> {
    let address = resolve(&args).await?;
    let listener = listen(address).await?;
    let bound = listener.local_addr().unwrap_or(address);
    let mut options = ServeOptions::new(&args.data);
    options.allow_origins = args.allow_origin;
    options.insecure_open = args.insecure_open;
    let data = args.data;
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&data)).await;
    let store = match opened {
        Ok(opened) => opened.map_err(|error| store_failure(&error))?,
        Err(error) => {
            let what = "the store could not be opened";
            return Err(Failure::new(OTHER, what, error, "please report this"));
        }
    };
    let signal = signal().map_err(|error| {
        let what = "signals could not be listened to";
        Failure::new(OTHER, what, error, "look at the limits of the process")
    })?;
    let mut out = io::stdout();
    // Whoever started the relay may have closed its output; it serves all the same.
    let _ = writeln!(out, "landfall-relay listening on ws://{bound}").and_then(|()| out.flush());
    tracing::info!(address = %bound, data = %options.data.display(), "listening");
    serve_with_store(listener, options, Arc::new(store), signal).await.map_err(|error| {
        let hint = match error {
            ServeError::Drain { .. } => "nothing acknowledged is lost",
            _ => "see the log",
        };
        Failure::new(OTHER, "the relay stopped with an error", chain(&error), hint)
    })
}

/// The address to listen on, if it may be listened on.
async fn resolve(args: &ServeArgs) -> Result<SocketAddr, Failure> {
    let listen = &args.listen;
    let found: Vec<SocketAddr> = match tokio::net::lookup_host(listen.as_str()).await {
        Ok(found) => found.collect(),
        Err(error) => {
            let what = format!("`{listen}` is no address to listen on");
            let hint = "give address and port, such as 127.0.0.1:7600";
            return Err(Failure::new(USAGE, what, error, hint));
        }
    };
    let Some(address) = found.first() else {
        let what = format!("`{listen}` is no address to listen on");
        return Err(Failure::new(
            USAGE,
            what,
            "it resolves to nothing",
            "give an address and a port",
        ));
    };
    let local = found.iter().all(|address| http::is_loopback(&address.ip().to_string()));
    if !local && !args.insecure_open {
        let what = format!("will not listen on {address}");
        let why = "it is reachable from other machines, and no authentication is configured";
        let hint = "listen on 127.0.0.1, or accept the risk with --insecure-open";
        return Err(Failure::new(USAGE, what, why, hint));
    }
    Ok(*address)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop who listens there, or choose another port with --listen"
            }
            io::ErrorKind::PermissionDenied => "use a port from 1024 on",
            _ => "choose another address with --listen",
        };
        Failure::new(LISTEN, format!("cannot listen on {address}"), error, hint)
    })
}

fn store_failure(error: &OpenStoreError) -> Failure {
    let (code, hint) = match error.hint() {
        StoreHint::InUse => (IN_USE, "stop the other relay, or use another folder with --data"),
        StoreHint::WrongFile => {
            (STORE, "use another folder with --data (the file was not touched)")
        }
        StoreHint::Newer => (STORE, "use the newer release of landfall-relay that wrote it"),
        StoreHint::Unwritable => (STORE, "make the folder writable, or use another with --data"),
        StoreHint::Full => (STORE, "make room on the disk"),
        StoreHint::Other => (STORE, "restore a backup, or use another folder with --data"),
    };
    Failure::new(code, "the store cannot be used", chain(error), hint)
}

/// Ready at the first signal that asks the process to end.
#[cfg(unix)]
fn signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without signals the process can only be ended from outside.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
