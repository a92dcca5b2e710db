//! `landfall-relay serve`, for its binary and for programs that embed a relay. It must not know frames.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use landfall_protocol::error_chain;
use landfall_protocol::limits as shared;
use tokio::net::TcpListener;

use super::child::{COMPACT_WORKER, VERIFY_COPY};
use super::identity::IdentityArgs;
use super::{
    BUG, FILE, FSYNC, Failure, GONE, LISTEN, LogFormat, OTHER, USAGE, names, store_failure,
};
use crate::backups::BackupOptions;
use crate::compaction::CompactionOptions;
use crate::operators::OperatorListener;
use crate::serve::{ServeError, ServeOptions, serve_with_store};
use crate::store::{CompactionWindow, SqliteStore};
use crate::{allocator, limits, logs};

/// Options of `serve`. Every option has a default and an environment variable.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The address to listen on: address and port, or `localhost` and port. Port 0 picks a free one
    #[arg(long, env = "LANDFALL_LISTEN", default_value = "127.0.0.1:7600", value_name = "ADDRESS")]
    pub listen: String,
    /// An address on which operators read /healthz, /readyz and /metrics, such as 127.0.0.1:7601. Every
    /// client that reaches it can read the metrics
    #[arg(long, env = "LANDFALL_OPERATORS_LISTEN", value_name = "ADDRESS")]
    pub operators_listen: Option<SocketAddr>,
    /// The folder of the store; created, accessible to its owner only, if it is missing
    #[arg(long, env = "LANDFALL_DATA", default_value = "./landfall-data", value_name = "FOLDER")]
    pub data: PathBuf,
    /// An origin whose pages may connect, such as `https://app.example`; may be repeated
    #[arg(long, env = "LANDFALL_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN",
        value_parser = names::origin)]
    pub allow_origin: Vec<String>,
    /// Serve every client that reaches the port, without authentication
    #[arg(long, env = "LANDFALL_INSECURE_OPEN", value_parser = BoolishValueParser::new())]
    pub insecure_open: bool,
    /// Memory budget for everything that clients make the relay hold, in MiB. The process itself
    /// and its children need more
    #[arg(long, env = "LANDFALL_MEMORY", default_value_t = DEFAULT_MEMORY_MIB, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(LEAST_MEMORY_MIB..=1 << 20))]
    pub memory: u64,
    /// A host name that clients may use for the relay, such as `relay.example`; may be repeated
    #[arg(long, env = "LANDFALL_ALLOW_HOST", value_delimiter = ',', value_name = "HOST",
        value_parser = names::host)]
    pub allow_host: Vec<String>,
    /// Maximum connections of one address; behind a proxy all clients have the proxy's
    #[arg(long, env = "LANDFALL_CONNECTIONS_PER_ADDRESS", value_name = "COUNT",
        default_value_t = limits::CONNECTIONS_OF_ADDRESS as u64,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub connections_per_address: u64,
    /// How clients are identified.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// How history is compacted.
    #[command(flatten)]
    pub compaction: CompactionArgs,
    /// Disable compaction: every change is kept as it came
    #[arg(long, env = "LANDFALL_NO_COMPACT", value_parser = BoolishValueParser::new())]
    pub no_compact: bool,
    /// A folder, preferably on another disk, into which the running relay backs up its store
    #[arg(long, env = "LANDFALL_BACKUP_TO", value_name = "FOLDER")]
    pub backup_to: Option<PathBuf>,
    /// Maximum age of the newest backup, such as `90m`, `24h` or `7d`
    #[arg(long, env = "LANDFALL_BACKUP_EVERY", value_name = "TIME", default_value = "24h",
        requires = "backup_to", value_parser = backup_every)]
    pub backup_every: Duration,
    /// How many backups are kept; older ones are removed
    #[arg(long, env = "LANDFALL_BACKUP_KEEP", value_name = "COUNT", default_value_t = 7,
        requires = "backup_to", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub backup_keep: u64,
    /// The format of log lines on standard error
    #[arg(long, env = "LANDFALL_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How history is compacted: by `serve`, and by the operator's commands.
#[derive(Debug, Clone, Args)]
pub struct CompactionArgs {
    /// Memory limit of the child process that compacts documents, in MiB
    #[arg(long, env = "LANDFALL_COMPACT_MEMORY", default_value_t = DEFAULT_COMPACT_MIB, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    pub compact_memory: u64,
    /// Time limit of that child for one document, in seconds
    #[arg(long, env = "LANDFALL_COMPACT_TIME", default_value_t = limits::COMPACTION_TIME.as_secs(),
        value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub compact_time: u64,
    /// The number of youngest changes of each space that are not compacted
    #[arg(long, env = "LANDFALL_KEEP_RECENT", default_value_t = shared::RECENT_ENTRIES,
        value_name = "CHANGES")]
    pub keep_recent: u64,
    /// Changes younger than this are not compacted, in seconds
    #[arg(long, env = "LANDFALL_KEEP_RECENT_AGE", default_value_t = shared::RECENT_AGE.as_secs(),
        value_name = "SECONDS")]
    pub keep_recent_age: u64,
}

const DEFAULT_MEMORY_MIB: u64 = (limits::MEMORY_BYTES >> 20) as u64;
const LEAST_MEMORY_MIB: u64 = (limits::LEAST_MEMORY >> 20) as u64;
const DEFAULT_COMPACT_MIB: u64 = limits::COMPACTION_MEMORY_BYTES >> 20;

/// The release of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl ServeArgs {
    fn compactions(&self) -> CompactionOptions {
        let compactions = self.compaction.options();
        CompactionOptions { worker: compactions.worker.filter(|_| !self.no_compact), ..compactions }
    }
}

impl CompactionArgs {
    /// Options for compaction; the child is this same program, run with [`COMPACT_WORKER`].
    pub(super) fn options(&self) -> CompactionOptions {
        CompactionOptions {
            worker: this_program().map(|program| vec![program.into(), COMPACT_WORKER.into()]),
            memory_bytes: self.compact_memory << 20,
            time: Duration::from_secs(self.compact_time),
            window: CompactionWindow {
                recent_entries: self.keep_recent,
                recent_age: Duration::from_secs(self.keep_recent_age),
                ..CompactionWindow::NONE
            },
            ..CompactionOptions::default()
        }
    }
}

fn backup_every(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(every) if every >= Duration::from_secs(1) => Ok(every),
        Ok(_) => Err("it must be at least a second".to_owned()),
        Err(error) => Err(format!("{error}; give a time such as 90m, 24h or 7d")),
    }
}

/// The options for scheduled backups, if the folder is usable.
fn backups(
    folder: Option<PathBuf>,
    every: Duration,
    keep: u64,
) -> Result<Option<BackupOptions>, Failure> {
    let Some(folder) = folder else { return Ok(None) };
    let refused = |error: &dyn std::fmt::Display| {
        let what = format!("cannot make backups in {}", folder.display());
        Failure::new(
            FILE,
            what,
            error,
            "make the folder writable for the relay, or mount its disk, before you start the relay",
        )
    };
    match std::fs::metadata(&folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(refused(&"it is not a folder")),
        Err(error) => return Err(refused(&error)),
    }
    // Fail at the start instead of at the first copy: a unit file may make all other folders read-only.
    let probe = folder.join(format!(".landfall-relay-{}", std::process::id()));
    std::fs::File::create_new(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(|error| refused(&error))?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let verifier = this_program().map(|program| vec![program.into(), VERIFY_COPY.into()]);
    Ok(Some(BackupOptions { folder, every, keep, verifier }))
}

/// The path that starts this same program again. On Linux it works even if the file was removed or replaced
/// since.
fn this_program() -> Option<PathBuf> {
    let itself = Path::new("/proc/self/exe");
    match cfg!(target_os = "linux") && itself.exists() {
        true => Some(itself.to_owned()),
        false => std::env::current_exe().ok(),
    }
}

/// Serves until SIGTERM or SIGINT. Prints the address as the first line on standard output, once connections
/// are accepted.
pub fn run(args: ServeArgs) -> ExitCode {
    let logging = logs::start(args.log_format);
    allocator::map_large();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(serve_until_signal(args));
            // A store read that never returns must not keep the process alive.
            runtime.shutdown_timeout(limits::RUNTIME_END);
            result
        }
        Err(error) => Err(Failure::new(
            OTHER,
            "the relay's threads could not be started",
            error,
            "check the limits of processes and memory",
        )),
    };
    // Drop the log writer first, so that the error is the last line.
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

async fn serve_until_signal(args: ServeArgs) -> Result<(), Failure> {
    let identity = args.identity.clone().options()?;
    let address = resolve(&args, identity.is_required()).await?;
    let listener = listen(address).await?;
    let bound = listener.local_addr().unwrap_or(address);
    let mut options = ServeOptions::new(&args.data);
    options.compactions = args.compactions();
    options.allow_origins = args.allow_origin;
    options.allow_hosts = args.allow_host;
    options.connections_of_address = args.connections_per_address as usize;
    options.insecure_open = args.insecure_open;
    options.memory = (args.memory << 20) as usize;
    options.backups = backups(args.backup_to, args.backup_every, args.backup_keep)?;
    options.identity = identity;
    options.operators = operators(args.operators_listen)?;
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
        let what = "the signal handlers could not be installed";
        Failure::new(OTHER, what, error, "check the limits of the process")
    })?;
    let mut out = io::stdout();
    // The parent process may have closed standard output; the relay serves all the same.
    let _ = writeln!(out, "landfall-relay {VERSION} listening on ws://{bound}")
        .and_then(|()| out.flush());
    tracing::info!(version = VERSION, address = %bound, data = %options.data.display(), "listening");
    let served = serve_with_store(listener, options, Arc::new(store), signal).await;
    served.map_err(|error| {
        let (code, hint) = code_and_hint(&error);
        Failure::new(code, "the relay stopped with an error", error_chain(&error), hint)
    })
}

fn code_and_hint(error: &ServeError) -> (u8, &'static str) {
    match error {
        ServeError::Identity(error) => (FILE, error.hint()),
        ServeError::Drain { .. } => (OTHER, "nothing acknowledged is lost"),
        ServeError::Gone(_) => {
            let hint = "put the store's files back or restore a backup, then start the relay: \
                        without them it creates an empty store";
            (GONE, hint)
        }
        ServeError::Fsync(_) => (
            FSYNC,
            "check the disk, and restart the relay: everything acknowledged before is on the disk",
        ),
        ServeError::Ended(_) => {
            (BUG, "restart the relay: nothing acknowledged is lost; report the log lines")
        }
        _ => (OTHER, "see the log"),
    }
}

/// Resolves the address to listen on, and checks that it is allowed.
async fn resolve(args: &ServeArgs, needs_token: bool) -> Result<SocketAddr, Failure> {
    let listen = &args.listen;
    let found: Vec<SocketAddr> = match tokio::net::lookup_host(listen.as_str()).await {
        Ok(found) => found.collect(),
        Err(error) => {
            let what = format!("`{listen}` is not an address to listen on");
            let hint = "give address and port, such as 127.0.0.1:7600";
            return Err(Failure::new(USAGE, what, error, hint));
        }
    };
    let Some(address) = found.first() else {
        let what = format!("`{listen}` is not an address to listen on");
        return Err(Failure::new(
            USAGE,
            what,
            "it resolves to no address",
            "give an address and a port",
        ));
    };
    let local = found.iter().all(|address| address.ip().is_loopback());
    if !local && !needs_token && !args.insecure_open {
        let what = format!("will not listen on {address}");
        let why = "it is reachable from other machines, and no authentication is configured";
        let hint = "listen on 127.0.0.1, identify clients (see --jwt-keys and --oidc-issuer), or accept \
                    the risk with --insecure-open";
        return Err(Failure::new(USAGE, what, why, hint));
    }
    Ok(*address)
}

/// Binds the listener for operators, and reports its address.
fn operators(address: Option<SocketAddr>) -> Result<Option<OperatorListener>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let cannot = |error: io::Error| {
        let what = format!("cannot listen on {address} for operators");
        Failure::new(LISTEN, what, error, "choose another address with --operators-listen")
    };
    let listener = OperatorListener::bind(address).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    tracing::info!(address = %bound, "listening for operators");
    Ok(Some(listener))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop the program that listens there, or choose another port with --listen"
            }
            io::ErrorKind::PermissionDenied => "use a port from 1024 on",
            _ => "choose another address with --listen",
        };
        Failure::new(LISTEN, format!("cannot listen on {address}"), error, hint)
    })
}

/// Completes at the first signal that asks the process to end.
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
        // Without signal handling, only a kill ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Essential;

    #[test]
    fn an_ended_thread_has_its_own_exit_code() {
        let ended = ServeError::Ended(Essential::Compaction);
        assert_eq!(code_and_hint(&ended).0, 10);
        assert!(ended.to_string().contains("its compaction thread ended"), "{ended}");
    }
}
