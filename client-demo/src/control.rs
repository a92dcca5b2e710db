//! A local control socket beside a store. One process at a time has a store open; others hand their work
//! to it here. This is the way of a question and its answer, and knows nothing of what they say.
//!
//! The socket is a Unix domain socket named after the store's file, with mode 0600. One connection carries
//! one question and its answer: each a length (4 bytes, little-endian) and so much JSON, with a version.
//! All is bounded: a message's bytes, the questions at a time, and how long one may stand still on its way.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(not(unix))]
pub(crate) use nowhere::{Control, ask, is_served};
#[cfg(unix)]
pub(crate) use unix::{Control, ask, is_served};

/// The version of what is said; both ends must speak the same.
const VERSION: u32 = 1;

/// Bytes of a message. The longest text that a change holds fits, however JSON writes it.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Questions that are answered at a time: each has a thread.
const AT_A_TIME: usize = 8;

/// Why a question has no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// No process answers there.
    #[error("it takes no commands")]
    NotServed,
    /// The socket does not belong to the store's owner.
    #[error("the socket {} is not its owner's", .0.display())]
    Foreign(PathBuf),
    /// More than a message holds.
    #[error("the command has {bytes} bytes, and it takes {MESSAGE_BYTES}")]
    TooLarge { bytes: usize },
    /// It answers, and did nothing.
    #[error("it did not take the command: {0}")]
    Refused(String),
    /// The connection broke after the question was sent.
    #[error("it did not answer, and may have done it: {0}")]
    Broken(#[source] io::Error),
}

/// What is sent: a version, which is read first, and what is said in it.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    said: T,
}

/// The version of an envelope whose content may be of another one.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply<A> {
    Answer(A),
    /// Nothing was done.
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

    /// How long a message may stand still on its way: both ends are on this machine.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// How long the end of the process waits for what is being done.
    const LAST: Duration = Duration::from_secs(30);

    /// Where a store's socket is: beside its file, under the name that the file really has.
    fn path_of(store: &Path) -> io::Result<PathBuf> {
        let store = store.canonicalize()?;
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push("-control");
        Ok(store.with_file_name(name))
    }

    /// Answers questions until it is dropped. For the process that has the store open: it alone may put a
    /// socket there.
    pub(crate) struct Control {
        path: PathBuf,
        shared: Arc<Shared>,
        thread: Option<JoinHandle<()>>,
    }

    #[derive(Default)]
    struct Shared {
        state: Mutex<State>,
        idle: Condvar,
    }

    #[derive(Default)]
    struct State {
        is_closing: bool,
        answering: usize,
    }

    impl Shared {
        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// A place for a question, if there is one.
        fn place(self: &Arc<Self>) -> Option<Place> {
            let mut state = self.lock();
            (state.answering < AT_A_TIME).then(|| {
                state.answering += 1;
                Place(Arc::clone(self))
            })
        }
    }

    /// The place of one question. Given back also when the one who answers panics.
    struct Place(Arc<Shared>);

    impl Drop for Place {
        fn drop(&mut self) {
            self.0.lock().answering -= 1;
            self.0.idle.notify_all();
        }
    }

    impl Control {
        /// Begins to answer.
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
            let shared = Arc::new(Shared::default());
            let (for_thread, answer) = (Arc::clone(&shared), Arc::new(answer));
            let listen = move || {
                for stream in listener.incoming() {
                    if for_thread.lock().is_closing {
                        return;
                    }
                    // One that is gone already wants no answer.
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
            // Wakes the thread that accepts; after that no process finds the socket.
            let is_woken = UnixStream::connect(&self.path).is_ok();
            let _ = fs::remove_file(&self.path);
            if let Some(thread) = self.thread.take().filter(|_| is_woken) {
                let _ = thread.join();
            }
            // What was taken is done before the store goes.
            let busy = |state: &mut State| state.answering > 0;
            drop(self.shared.idle.wait_timeout_while(self.shared.lock(), LAST, busy));
        }
    }

    /// A socket of which nobody else ever had a hold: it is made in a folder of ours, and moved to its place.
    fn bind(path: &Path) -> io::Result<UnixListener> {
        match fs::symlink_metadata(path) {
            // Of a process that was killed: whoever has the store open now is this one.
            Ok(found) if found.file_type().is_socket() => {}
            Ok(_) => return Err(io::Error::other("something else has the socket's name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        // A folder made so has mode 0700. Short names: a socket's path has 107 bytes at most.
        let made = tempfile::Builder::new().prefix(".c").rand_bytes(4).tempdir_in(folder)?;
        let place = made.path().join("s");
        let listener = UnixListener::bind(&place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o600))?;
        // A path too long to be connected to is found out here, and not by those who try.
        std::os::unix::net::SocketAddr::from_pathname(path)?;
        fs::rename(&place, path)?;
        Ok(listener)
    }

    /// Answers one connection, on a thread of its own.
    fn take<Q, A>(
        shared: &Arc<Shared>,
        answer: &Arc<impl Fn(Q) -> A + Send + Sync + 'static>,
        mut stream: UnixStream,
    ) where
        Q: DeserializeOwned + 'static,
        A: Serialize + 'static,
    {
        let Some(place) = shared.place() else {
            let busy = format!("{AT_A_TIME} commands are under way");
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
            // Who asked may be gone: what was asked for is done all the same.
            let _ = write(&mut stream, reply);
            drop(place);
        };
        // If none starts, the connection ends without an answer and its place is given back.
        let _ = thread::Builder::new().name("command".to_owned()).spawn(work);
    }

    /// Whether somebody takes questions there.
    pub(crate) fn is_served(store: &Path) -> bool {
        path_of(store).is_ok_and(|path| UnixStream::connect(path).is_ok())
    }

    /// Asks the process that has a store open, and waits for its answer as long as it takes.
    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
        store: &Path,
        question: Q,
    ) -> Result<A, AskError> {
        let path = path_of(store).map_err(|_| AskError::NotServed)?;
        let owner = |path: &Path| fs::symlink_metadata(path).map(|found| found.uid());
        match (owner(&path), store.metadata().map(|found| found.uid())) {
            // Root may look after anybody's store.
            (Ok(socket), Ok(of_store)) if socket == of_store || socket == 0 => {}
            (Ok(_), Ok(_)) => return Err(AskError::Foreign(path)),
            _ => return Err(AskError::NotServed),
        }
        let mut stream = UnixStream::connect(&path).map_err(|_| AskError::NotServed)?;
        let message = message(question).map_err(|error| AskError::Refused(error.to_string()))?;
        if message.len() > MESSAGE_BYTES + 4 {
            return Err(AskError::TooLarge { bytes: message.len() - 4 });
        }
        // One that is full says so without reading: its reply is there even if the writing fails.
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
            return Err(io::Error::other(format!("a message has {MESSAGE_BYTES} bytes at most")));
        }
        // Memory is taken as it comes, not as it is announced.
        let mut message = Vec::new();
        stream.take(length as u64).read_to_end(&mut message)?;
        if message.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Version { version } = serde_json::from_slice(&message)?;
        if version != VERSION {
            return Err(io::Error::other(format!("it speaks version {VERSION}, not {version}")));
        }
        Ok(serde_json::from_slice::<Envelope<T>>(&message)?.said)
    }
}

/// Where there are no Unix domain sockets, nothing is handed over.
#[cfg(not(unix))]
mod nowhere {
    use std::io;
    use std::path::Path;

    use super::AskError;

    /// Nobody is answered.
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
