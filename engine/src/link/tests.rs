//! A panic while what arrives is taken up, against a relay that says what the test wants.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use automerge::{ActorId, Automerge, ROOT, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_protocol::frame::{
    Entries, Entry, Frame, Frames, SUBPROTOCOL, Subscribed, Welcome, encode,
};
use landfall_protocol::{DocumentId, Epoch, Offset, Scope, SessionId, Upstream, limits};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr};

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

/// Answers a hello and subscriptions, which get a log of one entry.
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

/// One connection, to its end.
fn serve(mut socket: WebSocket<TcpStream>, entry: &Entry) {
    while let Ok(message) = socket.read() {
        let Message::Binary(bytes) = message else { continue };
        for frame in Frames::new(&bytes).unwrap() {
            for answer in answers(frame.unwrap(), entry) {
                // Its end shows at the reader.
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

#[test]
fn a_panic_while_something_is_taken_up_ends_its_session_and_it_comes_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relay = std::thread::spawn(move || {
        let entry = one_change();
        let mut connections = 0;
        // Until the test connects without speaking.
        while let Ok(socket) = accept_hdr(listener.accept().unwrap().0, choose) {
            connections += 1;
            serve(socket, &entry);
        }
        connections
    });
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap();
    store.shared_core().threads.order_panic(StoreThread::Arrivals);
    let quickly = Duration::from_millis(10);
    let url = format!("ws://{address}");
    store.connect(LinkOptions { reconnect_first: quickly, ..LinkOptions::new(&url) }).unwrap();
    let arrived = |status: &crate::Status| {
        let space = &status.spaces["s"];
        space.changes == 1 && space.sync == SyncStatus::Live
    };
    let status = store.watch().until_blocking(arrived).unwrap();
    assert_eq!(status.panicked.len(), 1);
    assert_eq!(status.panicked[0].thread, StoreThread::Arrivals);
    store.close().unwrap();
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(
        relay.join().unwrap(),
        2,
        "the session of the panic ended, and another one was made"
    );
}

/// What a relay asks for again is put together on the thread of the arrivals. A panic there: `After a panic
/// the session with the relay ends, and is made again`.
#[test]
fn critic_a_panic_while_what_the_relay_asks_for_is_read_ends_its_session() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use landfall_protocol::frame::Resend;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asks, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (connections, answers_heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asks_2, ends_2, connections_2, heard_2) = (
        Arc::clone(&asks),
        Arc::clone(&ends),
        Arc::clone(&connections),
        Arc::clone(&answers_heard),
    );
    let relay = std::thread::spawn(move || {
        let entry = one_change();
        while let Ok(mut socket) = accept_hdr(listener.accept().unwrap().0, choose) {
            connections_2.fetch_add(1, Ordering::SeqCst);
            socket.get_mut().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut subscription = None;
            loop {
                if ends_2.load(Ordering::SeqCst) {
                    break;
                }
                match socket.read() {
                    Ok(Message::Binary(bytes)) => {
                        for frame in Frames::new(&bytes).unwrap() {
                            let frame = frame.unwrap();
                            if let Frame::Subscribe(asked) = &frame {
                                subscription = Some(asked.subscription);
                            }
                            if matches!(frame, Frame::Resent(_)) {
                                heard_2.fetch_add(1, Ordering::SeqCst);
                            }
                            for answer in answers(frame, &entry) {
                                let _ = socket.send(Message::Binary(encode(&answer).into()));
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(tokio_tungstenite::tungstenite::Error::Io(error))
                        if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                    {
                        if let Some(subscription) = subscription.filter(|_| asks_2.load(Ordering::SeqCst)) {
                            let document = DocumentId::from_bytes([1; 16]);
                            let changes = vec![[1; 32]];
                            let asked = Frame::Resend(Resend { subscription, document, changes });
                            let _ = socket.send(Message::Binary(encode(&asked).into()));
                        }
                    }
                    Err(_) => break,
                }
            }
        }
    });
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap();
    let quickly = Duration::from_millis(10);
    let url = format!("ws://{address}");
    store.connect(LinkOptions { reconnect_first: quickly, ..LinkOptions::new(&url) }).unwrap();
    let arrived = |status: &crate::Status| {
        let space = &status.spaces["s"];
        space.changes == 1 && space.sync == SyncStatus::Live
    };
    store.watch().until_blocking(arrived).unwrap();
    store.shared_core().threads.order_panic(StoreThread::Arrivals);
    asks.store(true, Ordering::SeqCst);
    store.watch().until_blocking(|status| !status.panicked.is_empty()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    let goes_on = || {
        connections.load(Ordering::SeqCst) > 1 || answers_heard.load(Ordering::SeqCst) > 0
    };
    while !goes_on() && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    let (made, heard) = (connections.load(Ordering::SeqCst), answers_heard.load(Ordering::SeqCst));
    ends.store(true, Ordering::SeqCst);
    store.close().unwrap();
    drop(TcpStream::connect(address).unwrap());
    relay.join().unwrap();
    assert!(made > 1 || heard > 0, "one session, asked for 15 s, that never answers again");
}
