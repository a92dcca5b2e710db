//! A local control socket beside a store. Only one process at a time can have a store open; others pass their
//! commands to it through this socket. This module transports a request and its answer, and does not know
//! their content.
//!
//! The socket is a Unix domain socket named after the store's file, with mode 0600. One connection carries
//! one request and its answer: each is a length (4 bytes, little-endian) and that many bytes of JSON, with a
//! version. Message size, concurrent requests, and the time that a transfer may stall are bounded.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(not(unix))]
pub(crate) use nowhere::{Control, ask, is_served};
#[cfg(unix)]
pub(crate) use unix::{Control, ask, is_served};

/// The version of the messages; both ends must use the same.
const VERSION: u32 = 1;

/// Largest message in bytes. The longest text that a change can hold fits, with any JSON escaping.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Concurrent requests: each has a thread.
const AT_A_TIME: usize = 8;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// No process serves the socket.
    #[error("it accepts no commands")]
    NotServed,
    /// The socket does not belong to the store's owner.
    #[error("the socket {} belongs to another user than the store", .0.display())]
    Foreign(PathBuf),
    /// The request exceeds the message size.
    #[error("the command has {bytes} bytes, the limit is {MESSAGE_BYTES}")]
    TooLarge { bytes: usize },
    /// The other process rejected the request without effect.
    #[error("it rejected the command: {0}")]
    Refused(String),
    /// The connection broke after the request was sent.
    #[error("it did not answer, and may have performed the command: {0}")]
    Broken(#[source] io::Error),
}

/// A message: its version, which is read first, and its content.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    said: T,
}

/// The version of an envelope whose content may have another version's form.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply<A> {
    Answer(A),
    /// The request had no effect.
    Refused(String),
}

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::io::{self, Read, Write};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::{AT_A_TIME, AskError, Envelope, MESSAGE_BYTES, Reply, VERSION, Version};

    /// How long a transfer may stall: both ends are on this machine.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// How long closing waits for running requests.
    const LAST: Duration = Duration::from_secs(30);

    /// The path of a store's socket: beside its file, with symbolic links resolved.
    fn path_of(store: &Path) -> io::Result<PathBuf> {
        let store = store.canonicalize()?;
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push("-control");
        Ok(store.with_file_name(name))
    }

    /// Serves requests until dropped. Only for the process that has the store open: no other may create the
    /// socket.
    pub(crate) struct Control {
        path: PathBuf,
        shared: Arc<ControlState>,
        thread: Option<JoinHandle<()>>,
    }

    #[derive(Default)]
    struct ControlState {
        state: Mutex<State>,
        idle: Condvar,
    }

    #[derive(Default)]
    struct State {
        is_closing: bool,
        answering: usize,
    }

    impl ControlState {
        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// A slot for a request, if one is free.
        fn place(self: &Arc<Self>) -> Option<RequestSlot> {
            let mut state = self.lock();
            (state.answering < AT_A_TIME).then(|| {
                state.answering += 1;
                RequestSlot(Arc::clone(self))
            })
        }
    }

    /// The slot of one request. Also released if the handler panics.
    struct RequestSlot(Arc<ControlState>);

    impl Drop for RequestSlot {
        fn drop(&mut self) {
            self.0.lock().answering -= 1;
            self.0.idle.notify_all();
        }
    }

    impl Control {
        /// Starts serving.
        pub(crate) fn serve<Q, A>(
            store: &Path,
            answer: impl Fn(Q) -> A + Send + Sync + 'static,
        ) -> io::Result<Self>
        where
            Q: DeserializeOwned + 'static,
            A: Serialize + 'static,
        {
            let path = path_of(store)?;
            let listener = bind(&path)?;
            let shared = Arc::new(ControlState::default());
            let (for_thread, answer) = (Arc::clone(&shared), Arc::new(answer));
            let listen = move || {
                for stream in listener.incoming() {
                    if for_thread.lock().is_closing {
                        return;
                    }
                    // A client that has disconnected needs no answer.
                    let Ok(stream) = stream else { continue };
                    take::<Q, A>(&for_thread, &answer, stream);
                }
            };
            let thread = thread::Builder::new().name("control".to_owned()).spawn(listen)?;
            Ok(Self { path, shared, thread: Some(thread) })
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            self.shared.lock().is_closing = true;
            // Wakes the accepting thread; after that no process finds the socket.
            let is_woken = UnixStream::connect(&self.path).is_ok();
            let _ = fs::remove_file(&self.path);
            if let Some(thread) = self.thread.take().filter(|_| is_woken) {
                let _ = thread.join();
            }
            // Accepted requests finish before the store closes.
            let busy = |state: &mut State| state.answering > 0;
            drop(self.shared.idle.wait_timeout_while(self.shared.lock(), LAST, busy));
        }
    }

    /// Binds a socket that no other process could have connected to: it is created in a private folder, and
    /// then renamed to its path.
    fn bind(path: &Path) -> io::Result<UnixListener> {
        match fs::symlink_metadata(path) {
            // Left by a process that was killed: only this process has the store open.
            Ok(found) if found.file_type().is_socket() => {}
            Ok(_) => {
                return Err(io::Error::other("a file that is not a socket has the socket's path"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        // `tempdir_in` creates the folder with mode 0700. The names are short because a socket's path has at
        // most 107 bytes.
        let made = tempfile::Builder::new().prefix(".c").rand_bytes(4).tempdir_in(folder)?;
        let place = made.path().join("s");
        let listener = UnixListener::bind(&place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600))?;
        // Rejects a path that is too long to connect to, before clients run into it.
        std::os::unix::net::SocketAddr::from_pathname(path)?;
        fs::rename(&place, path)?;
        Ok(listener)
    }

    /// Answers one connection, on a thread of its own.
    fn take<Q, A>(
        shared: &Arc<ControlState>,
        answer: &Arc<impl Fn(Q) -> A + Send + Sync + 'static>,
        mut stream: UnixStream,
    ) where
        Q: DeserializeOwned + 'static,
        A: Serialize + 'static,
    {
        let Some(place) = shared.place() else {
            let busy = format!("{AT_A_TIME} commands are already running");
            let _ = write::<Reply<A>>(&mut stream, Reply::Refused(busy));
            return;
        };
        let answer = Arc::clone(answer);
        let work = move || {
            let question = timed(&stream).and_then(|()| read::<Q>(&mut stream));
            let reply = match question {
                Ok(question) => Reply::Answer(answer(question)),
                Err(error) => Reply::Refused(error.to_string()),
            };
            // The client may be gone: the request is performed all the same.
            let _ = write(&mut stream, reply);
            drop(place);
        };
        // If no thread starts, the connection closes without an answer and its slot is released.
        let _ = thread::Builder::new().name("command".to_owned()).spawn(work);
    }

    /// Whether a process serves the socket.
    pub(crate) fn is_served(store: &Path) -> bool {
        path_of(store).is_ok_and(|path| UnixStream::connect(path).is_ok())
    }

    /// Sends a request to the process that has a store open, and waits for its answer without a time limit.
    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
        store: &Path,
        question: Q,
    ) -> Result<A, AskError> {
        let path = path_of(store).map_err(|_| AskError::NotServed)?;
        let owner = |path: &Path| fs::symlink_metadata(path).map(|found| found.uid());
        match (owner(&path), store.metadata().map(|found| found.uid())) {
            // Root may serve any user's store.
            (Ok(socket), Ok(of_store)) if socket == of_store || socket == 0 => {}
            (Ok(_), Ok(_)) => return Err(AskError::Foreign(path)),
            _ => return Err(AskError::NotServed),
        }
        let mut stream = UnixStream::connect(&path).map_err(|_| AskError::NotServed)?;
        let message = message(question).map_err(|error| AskError::Refused(error.to_string()))?;
        if message.len() > MESSAGE_BYTES + 4 {
            return Err(AskError::TooLarge { bytes: message.len() - 4 });
        }
        // A server without free slots answers without reading: its reply arrives even if the write fails.
        let sent = timed(&stream).and_then(|()| stream.write_all(&message));
        stream.set_read_timeout(None).map_err(AskError::Broken)?;
        match (read(&mut stream), sent) {
            (Ok(Reply::Answer(answer)), _) => Ok(answer),
            (Ok(Reply::Refused(why)), _) => Err(AskError::Refused(why)),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(AskError::Broken(error)),
        }
    }

    fn timed(stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))
    }

    fn message<T: Serialize>(said: T) -> io::Result<Vec<u8>> {
        let mut message = vec![0; 4];
        serde_json::to_writer(&mut message, &Envelope { version: VERSION, said })?;
        let length = u32::try_from(message.len() - 4).map_err(io::Error::other)?;
        message[..4].copy_from_slice(&length.to_le_bytes());
        Ok(message)
    }

    fn write<T: Serialize>(stream: &mut UnixStream, said: T) -> io::Result<()> {
        timed(stream)?;
        stream.write_all(&message(said)?)
    }

    fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_BYTES {
            return Err(io::Error::other(format!("a message exceeds {MESSAGE_BYTES} bytes")));
        }
        // Memory grows with the received bytes, not with the announced length.
        let mut message = Vec::new();
        stream.take(length as u64).read_to_end(&mut message)?;
        if message.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Version { version } = serde_json::from_slice(&message)?;
        if version != VERSION {
            return Err(io::Error::other(format!(
                "its protocol has version {VERSION}, not {version}"
            )));
        }
        Ok(serde_json::from_slice::<Envelope<T>>(&message)?.said)
    }
}

/// Without Unix domain sockets, no request can be passed on.
#[cfg(not(unix))]
mod nowhere {
    use std::io;
    use std::path::Path;

    use super::AskError;

    /// Serves no requests.
    pub(crate) struct Control;

    impl Control {
        pub(crate) fn serve<Q, A>(_: &Path, _: impl Fn(Q) -> A) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    pub(crate) fn is_served(_: &Path) -> bool {
        false
    }

    pub(crate) fn ask<Q, A>(_: &Path, _: Q) -> Result<A, AskError> {
        Err(AskError::NotServed)
    }
}
