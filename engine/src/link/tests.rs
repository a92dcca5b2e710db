//! Panics while received data is processed, against a scripted relay.

mod identity;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use automerge::{ActorId, Automerge, ROOT, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_protocol::frame::{
    Entries, Entry, Frame, Frames, Resend, SUBPROTOCOL, Subscribed, Welcome, encode,
};
use landfall_protocol::{DocumentId, Epoch, Offset, Scope, SessionId, Upstream, limits};
use landfall_storage::Durability;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, accept_hdr};

use crate::{LinkOptions, Options, Store, StoreThread, SyncStatus};

fn one_change() -> Entry {
    let mut doc = Automerge::new().with_actor(ActorId::from([9; 16]));
    let mut tx = doc.transaction();
    tx.put(ROOT, "from", "the relay").unwrap();
    tx.commit();
    let change = preflight(doc.get_last_local_change().unwrap().raw_bytes()).unwrap();
    Entry::of_change(Offset(1), DocumentId::from_bytes([1; 16]), change, &[8; 16], 1)
}

fn welcome() -> Frame {
    Frame::Welcome(Welcome {
        version: 1,
        upstream: Upstream::from_bytes([5; 16]),
        session: SessionId(1),
        message_bytes: limits::MESSAGE_BYTES as u32,
        push_changes: 64,
        pushes_in_flight: 64,
        agent: "a test".to_owned(),
    })
}

/// Answers a hello and subscriptions; each log has one entry.
fn answers(frame: Frame, entry: &Entry) -> Vec<Frame> {
    let (epoch, head) = (Epoch::from_bytes([3; 16]), Offset(1));
    match frame {
        Frame::Hello(_) => vec![welcome()],
        Frame::Subscribe(asked) => {
            let subscription = asked.subscription;
            let scope = Scope::WHOLE_SPACE;
            let resumed = true;
            let after = asked.cursor.map_or(Offset(0), |cursor| cursor.offset);
            let new = after < head;
            let entries = if new { vec![entry.clone()] } else { Vec::new() };
            let entries = Entries { subscription, after, up_to: head, epoch, head, entries };
            let subscribed = Subscribed { subscription, epoch: Some(epoch), head, scope, resumed };
            let entries = new.then_some(Frame::Entries(entries));
            std::iter::once(Frame::Subscribed(subscribed)).chain(entries).collect()
        }
        Frame::Ping(number) => vec![Frame::Pong(number)],
        _ => Vec::new(),
    }
}

/// Serves one connection to its end.
fn serve(mut socket: WebSocket<TcpStream>, entry: &Entry) {
    while let Ok(message) = socket.read() {
        let Message::Binary(bytes) = message else { continue };
        for frame in Frames::new(&bytes).unwrap() {
            for answer in answers(frame.unwrap(), entry) {
                // The reader detects the end.
                let _ = socket.send(Message::Binary(encode(&answer).into()));
            }
        }
    }
}

#[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
fn choose(
    _: &Request,
    mut response: Response,
) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
    let chosen = HeaderValue::from_static(SUBPROTOCOL);
    response.headers_mut().insert("Sec-WebSocket-Protocol", chosen);
    Ok(response)
}

/// Connects, and waits until the relay's change has arrived and all spaces are live.
fn connected(store: &Store, address: SocketAddr) -> crate::Status {
    let (url, quickly) = (format!("ws://{address}"), Duration::from_millis(10));
    store.connect(LinkOptions { reconnect_first: quickly, ..LinkOptions::new(&url) }).unwrap();
    let arrived = |status: &crate::Status| {
        let space = &status.spaces["s"];
        space.changes == 1 && space.sync == SyncStatus::Live
    };
    store.watch().until_blocking(arrived).unwrap()
}

#[test]
fn a_panic_while_receiving_ends_the_session_and_the_entries_come_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relay = std::thread::spawn(move || {
        let entry = one_change();
        let mut connections = 0;
        // Until the test connects without a handshake.
        while let Ok(socket) = accept_hdr(listener.accept().unwrap().0, choose) {
            connections += 1;
            serve(socket, &entry);
        }
        connections
    });
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap();
    store.open_store().threads.order_panic(StoreThread::Arrivals);
    let status = connected(&store, address);
    assert_eq!(status.panicked.len(), 1);
    assert_eq!(status.panicked[0].thread, StoreThread::Arrivals);
    assert_eq!(status.spaces["s"].received, 1, "it was received twice and is stored once");
    store.close().unwrap();
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(relay.join().unwrap(), 2, "the session with the panic ended, and another one began");
}

/// Serves one connection to a relay that requests a document once the test asks for it. The end of the
/// connection ends the test's part too.
fn serve_and_ask(mut socket: WebSocket<TcpStream>, asks: &Asks) {
    let entry = one_change();
    let quickly = Some(Duration::from_millis(10));
    socket.get_mut().set_read_timeout(quickly).unwrap();
    let mut subscription = None;
    while !asks.ends.load(Ordering::SeqCst) {
        if let Some(subscription) = subscription.filter(|_| asks.wanted.load(Ordering::SeqCst)) {
            let document = DocumentId::from_bytes([1; 16]);
            let resend = Resend { subscription, document, changes: vec![[1; 32]] };
            asks.wanted.store(false, Ordering::SeqCst);
            // The reader detects the end.
            let _ = socket.send(Message::Binary(encode(&Frame::Resend(resend)).into()));
        }
        let bytes = match socket.read() {
            Ok(Message::Binary(bytes)) => bytes,
            Err(Error::Io(error)) if is_timeout(&error) => continue,
            Ok(_) => continue,
            Err(_) => break,
        };
        for frame in Frames::new(&bytes).unwrap() {
            let frame = frame.unwrap();
            match &frame {
                Frame::Subscribe(subscribe) => subscription = Some(subscribe.subscription),
                Frame::Resent(resent) => asks.heard.send(Heard::Resent(resent.count)).unwrap(),
                _ => {}
            }
            for answer in answers(frame, &entry) {
                let _ = socket.send(Message::Binary(encode(&answer).into()));
            }
        }
    }
    asks.heard.send(Heard::End).unwrap();
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The frames that a requesting relay receives.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Resent(u32),
    /// The session has ended.
    End,
}

struct Asks {
    wanted: AtomicBool,
    ends: AtomicBool,
    heard: mpsc::Sender<Heard>,
}

/// A store with one change from a relay, which requests it on demand.
fn asked_store() -> (Store, Arc<Asks>, mpsc::Receiver<Heard>, impl FnOnce()) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::channel();
    let (wanted, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let asks = Arc::new(Asks { wanted, ends, heard });
    let of_relay = Arc::clone(&asks);
    let relay = std::thread::spawn(move || {
        // Until the test connects without a handshake.
        while let Ok(socket) = accept_hdr(listener.accept().unwrap().0, choose) {
            serve_and_ask(socket, &of_relay);
        }
    });
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap();
    connected(&store, address);
    let (closing, ending) = (store.clone(), Arc::clone(&asks));
    let end = move || {
        ending.ends.store(true, Ordering::SeqCst);
        closing.close().unwrap();
        drop(TcpStream::connect(address).unwrap());
        relay.join().unwrap();
    };
    (store, asks, hears, end)
}

/// The answer to a resend request is assembled on the arrivals thread.
#[test]
fn a_panic_while_reading_for_a_resend_ends_the_session() {
    let (store, asks, hears, end) = asked_store();
    store.open_store().threads.order_panic(StoreThread::Arrivals);
    asks.wanted.store(true, Ordering::SeqCst);
    assert_eq!(hears.recv().unwrap(), Heard::End);
    // The next session answers.
    asks.wanted.store(true, Ordering::SeqCst);
    assert_eq!(hears.recv().unwrap(), Heard::Resent(0));
    assert_eq!(store.watch().now().panicked.len(), 1);
    end();
}

/// A requested document may be damaged here as well.
#[test]
fn an_unreadable_document_is_answered_with_nothing() {
    let (store, asks, hears, end) = asked_store();
    let rename = |sql: &'static str| {
        let store = store.open_store();
        store
            .context
            .log
            .database()
            .write(Durability::Full, move |tx| tx.execute_batch(sql))
            .unwrap();
    };
    rename("ALTER TABLE change RENAME TO unreadable");
    for _ in 0..2 {
        asks.wanted.store(true, Ordering::SeqCst);
        assert_eq!(hears.recv().unwrap(), Heard::Resent(0));
    }
    rename("ALTER TABLE unreadable RENAME TO change");
    end();
}
