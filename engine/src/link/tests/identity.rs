//! Tokens, against a relay that requires one of a list.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use automerge::{ROOT, transaction::Transactable};
use landfall_protocol::frame::{ErrorFrame, Features, Frame, Frames, Nack, encode, features};
use landfall_protocol::{Code, NackClass};
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, accept_hdr};

use super::{answers, choose, is_timeout, one_change};
use crate::{
    FlushError, LinkOptions, LinkStatus, Options, Status, Store, Token, TokenError, TokenProvider,
};

/// A frame that the relay received.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The token of a hello.
    Hello(Option<String>),
    Renewed(String),
    Push,
}

/// The relay's behaviour.
#[derive(Default)]
struct Policy {
    accepted: BTreeSet<&'static str>,
    /// The answer to the hello instead of a check of the token.
    refuses: Option<Code>,
    /// Ends the session with this code.
    ends: Option<Code>,
    forbids_pushes: bool,
    stops: bool,
}

struct Relay {
    address: SocketAddr,
    policy: Arc<Mutex<Policy>>,
    hears: mpsc::Receiver<Heard>,
    thread: JoinHandle<()>,
}

impl Relay {
    fn start(accepted: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = accepted.iter().copied().collect();
        let policy = Arc::new(Mutex::new(Policy { accepted, ..Policy::default() }));
        let (heard, hears) = mpsc::channel();
        let of_relay = Arc::clone(&policy);
        let thread = std::thread::spawn(move || {
            // Until the test connects without a handshake.
            while let Ok(socket) = accept_hdr(listener.accept().unwrap().0, choose) {
                serve(socket, &of_relay, &heard);
            }
        });
        Self { address, policy, hears, thread }
    }

    /// Options with short waits, but a long one after a refused token.
    fn options(&self) -> LinkOptions {
        LinkOptions::new(format!("ws://{}", self.address))
            .reconnect_first(Duration::from_millis(10))
            .reconnect_most(Duration::from_millis(20))
            .signed_out_retry(Duration::from_secs(3_600))
    }

    fn accept(&self, token: &'static str) {
        self.policy.lock().accepted.insert(token);
    }

    /// The next token of a hello.
    fn hello(&self) -> Option<String> {
        loop {
            if let Heard::Hello(token) = self.hears.recv().unwrap() {
                return token;
            }
        }
    }

    /// Waits for a push.
    fn pushed(&self) {
        while self.hears.recv().unwrap() != Heard::Push {}
    }

    fn end(self, store: &Store) {
        self.policy.lock().stops = true;
        store.close().unwrap();
        drop(TcpStream::connect(self.address).unwrap());
        self.thread.join().unwrap();
    }
}

fn serve(mut socket: WebSocket<TcpStream>, policy: &Mutex<Policy>, heard: &mpsc::Sender<Heard>) {
    socket.get_mut().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    while !policy.lock().stops {
        if let Some(code) = policy.lock().ends.take() {
            let _ = socket.send(message(&error(code)));
            return;
        }
        let bytes = match socket.read() {
            Ok(Message::Binary(bytes)) => bytes,
            Err(Error::Io(error)) if is_timeout(&error) => continue,
            Ok(_) => continue,
            Err(_) => return,
        };
        for frame in Frames::new(&bytes).unwrap() {
            for answer in answer(frame.unwrap(), policy, heard) {
                let ends = matches!(answer, Frame::Error(_));
                // The reader detects the end.
                let _ = socket.send(message(&answer));
                if ends {
                    return;
                }
            }
        }
    }
}

fn answer(frame: Frame, policy: &Mutex<Policy>, heard: &mpsc::Sender<Heard>) -> Vec<Frame> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let policy = policy.lock();
    let tell = |what| drop(heard.send(what));
    match frame {
        Frame::Hello(hello) => {
            let token = hello.token.as_ref().map(|token| text(token));
            let is_accepted = token.as_deref().is_some_and(|t| policy.accepted.contains(t));
            tell(Heard::Hello(token));
            let refused = policy.refuses.or((!is_accepted).then_some(Code::UNAUTHORIZED));
            if let Some(code) = refused {
                return vec![error(code)];
            }
            let features = Frame::Features(Features { bits: features::TOKEN });
            std::iter::once(features).chain(answers(Frame::Hello(hello), &one_change())).collect()
        }
        Frame::Token(renewed) => {
            tell(Heard::Renewed(text(&renewed.token)));
            Vec::new()
        }
        Frame::Push(push) => {
            tell(Heard::Push);
            let what = "no right to write".to_owned();
            let (code, class) = (Code::FORBIDDEN, NackClass::REFUSED);
            let nack = Nack { id: push.id, code, class, retry_after_ms: 0, what };
            policy.forbids_pushes.then_some(Frame::Nack(nack)).into_iter().collect()
        }
        frame => answers(frame, &one_change()),
    }
}

fn error(code: Code) -> Frame {
    Frame::Error(ErrorFrame { code, what: "says the relay".into(), hint: "sign in".into() })
}

fn message(frame: &Frame) -> Message {
    Message::Binary(encode(frame).into())
}

fn store() -> Store {
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap();
    store
}

fn wait(store: &Store, wanted: impl Fn(&Status) -> bool) -> Status {
    store.watch().until_blocking(wanted).unwrap()
}

fn edit(store: &Store) {
    store.space("s").unwrap().create(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap();
}

/// Returns the tokens one after the other, and then the last one; counts the calls.
fn sequence(tokens: &'static [&'static str]) -> (TokenProvider, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let provider = TokenProvider::new(move || {
        let call = counted.fetch_add(1, Ordering::SeqCst) as usize;
        async move { Ok(Token::new(tokens[call.min(tokens.len() - 1)])) }
    });
    (provider, calls)
}

#[test]
fn a_fixed_token_is_sent_in_the_hello() {
    let (relay, store) = (Relay::start(&["good"]), store());
    store.connect(relay.options().token("good")).unwrap();
    assert_eq!(relay.hello().as_deref(), Some("good"));
    wait(&store, |status| status.link == LinkStatus::Online);
    relay.end(&store);
}

#[test]
fn a_refused_token_is_asked_for_once_more_and_then_the_client_is_signed_out() {
    let (relay, store) = (Relay::start(&["good"]), store());
    let (provider, calls) = sequence(&["old", "older", "good"]);
    store.connect(relay.options().token(provider)).unwrap();
    let status = wait(&store, |status| status.link == LinkStatus::SignedOut);
    let reason = status.last_error.unwrap();
    assert!(reason.contains("says the relay") && !reason.contains("old"), "{reason}");
    assert_eq!((relay.hello().as_deref(), relay.hello().as_deref()), (Some("old"), Some("older")));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    // Editing goes on, and nothing is rejected; a flush does not wait for a sign-in.
    edit(&store);
    let flushed = store.flush_blocking(Duration::from_secs(3_600));
    assert!(matches!(flushed, Err(FlushError::Offline { .. })), "{flushed:?}");
    let status = store.status();
    assert_eq!((status.link, status.pending().changes), (LinkStatus::SignedOut, 1));
    assert!(status.spaces["s"].rejected.is_empty());
    // The sign-in: the application asks for an attempt.
    store.reconnect_now();
    assert_eq!(relay.hello().as_deref(), Some("good"));
    let status = wait(&store, |status| status.link == LinkStatus::Online);
    assert_eq!(status.last_error, None);
    relay.pushed();
    relay.end(&store);
}

#[test]
fn a_second_token_that_is_accepted_signs_nobody_out() {
    let (relay, store) = (Relay::start(&["good"]), store());
    let mut seen = store.watch();
    store.connect(relay.options().token(sequence(&["old", "good"]).0)).unwrap();
    let never = |status: &Status| {
        assert_ne!(status.link, LinkStatus::SignedOut);
        status.link == LinkStatus::Online
    };
    seen.until_blocking(never).unwrap();
    relay.end(&store);
}

#[test]
fn a_signed_out_link_tries_again_by_itself() {
    let (relay, store) = (Relay::start(&[]), store());
    let options = relay.options().signed_out_retry(Duration::from_secs(1));
    store.connect(options.token("late")).unwrap();
    wait(&store, |status| status.link == LinkStatus::SignedOut);
    relay.accept("late");
    wait(&store, |status| status.link == LinkStatus::Online);
    relay.end(&store);
}

#[test]
fn a_provider_that_reports_a_sign_out_is_believed() {
    let (relay, store) = (Relay::start(&[]), store());
    let provider = TokenProvider::new(|| async { Err(TokenError::SignedOut("bye".to_owned())) });
    store.connect(relay.options().token(provider)).unwrap();
    let status = wait(&store, |status| status.link == LinkStatus::SignedOut);
    assert_eq!(status.last_error.as_deref(), Some("bye"));
    assert!(relay.hears.try_recv().is_err(), "nothing is sent without a token");
    relay.end(&store);
}

/// One answer of a provider.
type Provided = fn() -> Result<Token, TokenError>;

/// A provider that fails at first in some way, and then returns a token.
fn fails_first(fail: Provided) -> TokenProvider {
    let calls = AtomicU32::new(0);
    TokenProvider::new(move || {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move { if call == 0 { fail() } else { Ok(Token::new("good")) } }
    })
}

#[test]
fn a_provider_that_fails_or_panics_is_asked_again() {
    let panics = || -> Result<Token, TokenError> {
        std::panic::resume_unwind(Box::new("with the secret"));
    };
    let large = || Ok(Token::new(vec![b'x'; landfall_protocol::limits::TOKEN_BYTES + 1]));
    let cases: [(Provided, &str); 4] = [
        (|| Err(TokenError::failed("the issuer is away")), "the issuer is away"),
        (panics, "the token provider panicked"),
        (large, "16385 bytes"),
        (|| Ok(Token::new("")), "an empty token"),
    ];
    for (fail, expected) in cases {
        let (relay, store) = (Relay::start(&["good"]), store());
        let slowly = Duration::from_secs(3_600);
        let options = relay.options().reconnect_first(slowly).reconnect_most(slowly);
        store.connect(options.token(fails_first(fail))).unwrap();
        let status = wait(&store, |status| status.last_error.is_some());
        let reason = status.last_error.unwrap();
        assert!(reason.contains(expected) && !reason.contains("secret"), "{reason}");
        assert!(matches!(status.link, LinkStatus::Connecting { .. }), "{:?}", status.link);
        store.reconnect_now();
        wait(&store, |status| status.link == LinkStatus::Online);
        assert!(store.status().panicked.is_empty(), "no thread of the store panicked");
        relay.end(&store);
    }
}

#[test]
fn a_provider_that_never_ends_is_given_up_while_editing_continues() {
    let (relay, store) = (Relay::start(&["good"]), store());
    let (asked, asks) = mpsc::channel();
    let calls = AtomicU32::new(0);
    let provider = TokenProvider::new(move || {
        asked.send(()).unwrap();
        let never = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if never {
                std::future::pending::<()>().await;
            }
            Ok(Token::new("good"))
        }
    });
    let options = relay.options().handshake(Duration::from_millis(500));
    store.connect(options.token(provider)).unwrap();
    asks.recv().unwrap();
    edit(&store);
    assert_eq!(store.status().pending().changes, 1);
    let status = wait(&store, |status| status.last_error.is_some());
    let reason = status.last_error.unwrap();
    assert!(reason.contains("did not answer within 500ms"), "{reason}");
    relay.pushed();
    relay.end(&store);
}

#[test]
fn a_provider_that_blocks_its_thread_is_not_called_twice_and_holds_up_nothing() {
    let (relay, store) = (Relay::start(&["good"]), store());
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let provider = TokenProvider::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = released.lock().recv();
        async { Ok(Token::new("good")) }
    });
    let options = relay.options().handshake(Duration::from_millis(200));
    store.connect(options.token(provider)).unwrap();
    let blocked = |status: &Status| {
        status.last_error.as_deref().is_some_and(|why| why.contains("has not returned"))
    };
    wait(&store, blocked);
    edit(&store);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    drop(release);
    relay.pushed();
    relay.end(&store);
}

/// The application asks for an attempt while a call runs, which ends a little after it was cancelled.
#[test]
fn a_cancelled_call_delays_the_next_one_and_is_no_failure() {
    let (relay, store) = (Relay::start(&["good"]), store());
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (asked, asks) = mpsc::channel();
    let calls = AtomicU32::new(0);
    let provider = TokenProvider::new(move || {
        asked.send(()).unwrap();
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            released.lock().recv().unwrap();
        }
        async { Ok(Token::new("good")) }
    });
    let slowly = Duration::from_secs(3_600);
    let options = relay.options().reconnect_first(slowly).reconnect_most(slowly);
    store.connect(options.token(provider)).unwrap();
    asks.recv().unwrap();
    store.reconnect_now();
    // Only once the link has begun the second attempt, so that the first call is cancelled.
    wait(&store, |status| matches!(status.link, LinkStatus::Connecting { attempt: 1 }));
    release.send(()).unwrap();
    let status = wait(&store, |status| status.link == LinkStatus::Online);
    assert_eq!(status.last_error, None);
    relay.end(&store);
}

#[test]
fn closing_the_store_does_not_wait_for_a_provider() {
    let (relay, store) = (Relay::start(&[]), store());
    let (asked, asks) = mpsc::channel();
    let (dropped, drops) = mpsc::channel::<()>();
    let provider = TokenProvider::new(move || {
        asked.send(()).unwrap();
        let until_dropped = dropped.clone();
        async move {
            std::future::pending::<()>().await;
            drop(until_dropped);
            Ok(Token::new("never"))
        }
    });
    store.connect(relay.options().handshake(Duration::MAX).token(provider)).unwrap();
    asks.recv().unwrap();
    relay.end(&store);
    // The call is cancelled, and the provider dropped with the store.
    drop(store);
    assert!(drops.recv().is_err());
}

#[test]
fn a_token_is_renewed_within_the_session() {
    let (relay, store) = (Relay::start(&["first"]), store());
    let calls = AtomicU32::new(0);
    let provider = TokenProvider::new(move || {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Ok(Token::new("first").renew_after(Duration::ZERO)),
                1 => Err(TokenError::failed("the issuer is away")),
                _ => Ok(Token::new("second")),
            }
        }
    });
    store.connect(relay.options().token(provider)).unwrap();
    assert_eq!(relay.hello().as_deref(), Some("first"));
    assert_eq!(relay.hears.recv().unwrap(), Heard::Renewed("second".to_owned()));
    assert_eq!(store.status().link, LinkStatus::Online);
    relay.end(&store);
}

#[test]
fn a_session_that_the_relay_ends_for_a_new_identity_begins_anew_at_once() {
    for code in [Code::GOODBYE, Code::UNAUTHORIZED] {
        let (relay, store) = (Relay::start(&["first", "second"]), store());
        let slowly = Duration::from_secs(3_600);
        let options = relay.options().reconnect_first(slowly).reconnect_most(slowly);
        store.connect(options.token(sequence(&["first", "second"]).0)).unwrap();
        assert_eq!(relay.hello().as_deref(), Some("first"));
        wait(&store, |status| status.link == LinkStatus::Online);
        relay.policy.lock().ends = Some(code);
        assert_eq!(relay.hello().as_deref(), Some("second"), "at once after {code}");
        wait(&store, |status| status.link == LinkStatus::Online);
        // The second short session is followed by the ordinary wait.
        relay.policy.lock().ends = Some(code);
        let status = wait(&store, |status| status.last_error.is_some());
        assert!(matches!(status.link, LinkStatus::Connecting { .. }), "{:?}", status.link);
        relay.end(&store);
    }
}

#[test]
fn an_overloaded_relay_signs_nobody_out() {
    let (relay, store) = (Relay::start(&["good"]), store());
    relay.policy.lock().refuses = Some(Code::OVERLOADED);
    store.connect(relay.options().token("good")).unwrap();
    let mut watch = store.watch();
    for _ in 0..3 {
        relay.hello();
    }
    relay.policy.lock().refuses = None;
    let never = |status: &Status| {
        assert_ne!(status.link, LinkStatus::SignedOut);
        status.link == LinkStatus::Online
    };
    watch.until_blocking(never).unwrap();
    relay.end(&store);
}

#[test]
fn forbidden_changes_are_kept_and_go_out_once_the_right_is_granted() {
    let (relay, store) = (Relay::start(&["good"]), store());
    relay.policy.lock().forbids_pushes = true;
    edit(&store);
    store.connect(relay.options().token("good")).unwrap();
    relay.pushed();
    let status = wait(&store, |status| !status.spaces["s"].rejected.is_empty());
    let rejected = &status.spaces["s"].rejected[0];
    assert_eq!((rejected.code, status.link), (Code::FORBIDDEN, LinkStatus::Online));
    let space = store.space("s").unwrap();
    assert!(!space.export_rejected(&rejected.document).unwrap().is_empty());
    relay.policy.lock().forbids_pushes = false;
    space.retry(rejected.document).unwrap();
    relay.pushed();
    relay.end(&store);
}

#[test]
fn no_debug_output_shows_a_token() {
    let token = Token::new("secret").renew_after(Duration::from_secs(9));
    let options = LinkOptions::new("ws://127.0.0.1:1").token(token.clone());
    let bytes = format!("{:?}", b"secret");
    for shown in [format!("{token:?}"), format!("{options:?}"), format!("{:#?}", options.token)] {
        assert!(!shown.contains("secret") && !shown.contains(&bytes[1..8]), "{shown}");
        assert!(shown.contains("6 bytes"), "{shown}");
    }
}
