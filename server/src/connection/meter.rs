//! Memory for large messages. Before the relay reads the payload of a message that exceeds the socket's
//! buffer, it reserves memory for the message and its decoded form; meanwhile TCP flow control stops the
//! sender. Also bounds the pongs owed to a peer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::wire::{Begun, Header, NextRead, Violation, Wire};
use crate::limits;
use crate::memory::{Account, Class, Grant, Pace};

/// The message sizes of a protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageSizes {
    /// Bytes of the largest message.
    pub(crate) largest: usize,
    /// Bytes in memory per byte of a message: as received, and decoded.
    pub(crate) times: usize,
    /// Bytes of the WebSocket's read buffer.
    pub(crate) buffer: usize,
    /// Bytes that may wait in the WebSocket's write buffer.
    pub(crate) backlog: usize,
}

/// The accounting of a connection's inbound messages.
pub(crate) struct Meter {
    account: Account,
    sizes: MessageSizes,
    state: Mutex<State>,
    /// Notified when a message gets its memory.
    holding: Notify,
}

struct State {
    wire: Wire,
    /// Bytes received since the start.
    bytes: u64,
    /// The memory needed by each message that has begun and was not taken yet, oldest first.
    begun: VecDeque<usize>,
    /// Number of messages taken.
    taken: u64,
    /// The memory held for one of them, and the number of that message.
    held: Option<(u64, MessageGrant)>,
    /// Since when the last one has been waiting for its memory.
    waits: Option<Instant>,
    /// Bytes of pongs not written yet.
    owed: usize,
    /// The memory of a message was released early: the session ends.
    gave_up: bool,
}

/// The memory of an arriving message.
struct MessageGrant {
    grant: Grant,
    pace: Pace,
}

impl Meter {
    /// For one connection.
    pub(crate) fn new(account: Account, sizes: MessageSizes) -> Arc<Self> {
        let state = State {
            wire: Wire::new(sizes.buffer, sizes.largest),
            bytes: 0,
            begun: VecDeque::new(),
            taken: 0,
            held: None,
            waits: None,
            owed: 0,
            gave_up: false,
        };
        Arc::new(Self { account, sizes, state: Mutex::new(state), holding: Notify::new() })
    }

    /// Takes a complete message: returns its memory, if it needed any, to be held as long as the message.
    pub(crate) fn whole(&self) -> Option<Grant> {
        let mut state = self.state.lock();
        let number = state.taken;
        state.taken += 1;
        state.begun.pop_front();
        let (_, held) = state.held.take_if(|(of, _)| *of == number)?;
        Some(held.grant)
    }

    /// Bytes received since the start.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Whether a message waits for its memory: its sender cannot show that it is alive.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.lock().waits.is_some()
    }

    /// Waits until a message gets its memory: from then on its progress is checked.
    pub(crate) async fn holding(&self) {
        self.holding.notified().await;
    }

    /// Whether a message's memory is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.state.lock().held.is_some()
    }

    /// Releases a message's memory if others wait for memory and the message arrives slower than the slowest
    /// permitted link; then the session must end. `reads`: the relay itself is not holding the peer back.
    pub(crate) fn gives_up(&self, reads: bool) -> bool {
        let mut state = self.state.lock();
        let bytes = state.wire.payload();
        let Some((_, held)) = state.held.as_mut() else { return false };
        if !held.pace.is_slow(bytes, reads, &self.account) {
            return false;
        }
        state.gave_up = true;
        let held = state.held.take();
        drop(state);
        self.account.stalled();
        // The waiting sessions get the memory now, not only after this one has closed.
        drop(held);
        true
    }

    /// The next permitted read: at most one buffer. After a large message's header, its payload waits for its
    /// memory.
    pub(super) fn next_read(&self) -> NextRead {
        self.state.lock().wire.next_read()
    }

    /// Takes up to `most` bytes of a header that the WebSocket must read before the next read.
    pub(super) fn take_due(&self, most: usize) -> Header {
        self.state.lock().wire.take_due(most)
    }

    /// Records bytes that were read. Returns how many of them, from the front, to pass to the WebSocket.
    pub(super) fn came(&self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let mut state = self.state.lock();
        let State { wire, bytes: all, begun, owed, .. } = &mut *state;
        *all += bytes.len() as u64;
        wire.pass(bytes, &mut |frame| self.note(frame, begun, owed))
    }

    /// Records bytes of a header that began in an earlier read.
    pub(super) fn header_came(&self, bytes: &[u8]) -> Result<(), Violation> {
        let mut state = self.state.lock();
        let State { wire, bytes: all, begun, owed, .. } = &mut *state;
        *all += bytes.len() as u64;
        wire.pass_header(bytes, &mut |frame| self.note(frame, begun, owed))
    }

    fn note(&self, frame: Begun, begun: &mut VecDeque<usize>, owed: &mut usize) {
        match frame {
            Begun::Message { bytes, whole: true } => begun.push_back(self.weight(bytes)),
            // A message in several frames has an unknown length: reserve the maximum.
            Begun::Message { .. } => begun.push_back(self.sizes.largest * self.sizes.times),
            Begun::Ping { bytes } => *owed += bytes as usize + limits::CONTROL_FRAME_BYTES,
            Begun::Continued | Begun::Control => {}
        }
    }

    /// All pending output was written.
    pub(super) fn flushed(&self) {
        self.state.lock().owed = 0;
    }

    /// Whether too many pongs wait to be written. No more pings are read until the next flush.
    pub(super) fn owes_much(&self) -> bool {
        self.state.lock().owed > limits::PONGS_OWED_BYTES
    }

    fn weight(&self, bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match bytes {
            ..=limits::SOCKET_BUFFER_BYTES => 0,
            // The WebSocket rejects a larger one at its header.
            _ => bytes.min(self.sizes.largest) * self.sizes.times,
        }
    }

    /// The memory that the arriving message needs and does not have.
    fn needs(&self) -> Option<(u64, usize)> {
        let state = self.state.lock();
        if state.gave_up {
            return None;
        }
        let last = state.taken + (state.begun.len() as u64).checked_sub(1)?;
        let needs = *state.begun.back()?;
        let has = state.held.as_ref().is_some_and(|(of, _)| *of == last);
        (needs > 0 && !has).then_some((last, needs))
    }
}

type Reserving = Pin<Box<dyn Future<Output = Grant> + Send>>;

/// The reading side.
pub(super) struct Metered {
    pub(super) meter: Arc<Meter>,
    reserving: Option<Reserving>,
}

impl Metered {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, reserving: None }
    }

    /// Ready when more may be read.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let meter = &self.meter;
        let Some((message, needs)) = meter.needs() else { return Poll::Ready(()) };
        if self.reserving.is_none() {
            let account = meter.account.clone();
            let reserve = async move { account.reserve(Class::Incoming, needs).await };
            self.reserving = Some(Box::pin(reserve));
            meter.state.lock().waits = Some(Instant::now());
        }
        let Some(reserving) = &mut self.reserving else { return Poll::Ready(()) };
        let grant = std::task::ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        let mut state = meter.state.lock();
        let pace = Pace::from(state.wire.payload());
        state.waits = None;
        // An earlier message that was taken late keeps its own grant.
        state.held = Some((message, MessageGrant { grant, pace }));
        drop(state);
        meter.holding.notify_one();
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, ShareKey};

    const SIZES: MessageSizes = MessageSizes {
        largest: 1 << 20,
        times: 2,
        buffer: limits::SOCKET_BUFFER_BYTES,
        backlog: 0,
    };

    /// The header of a client's binary message of `bytes` bytes.
    fn header(bytes: u64) -> Vec<u8> {
        let mut header = vec![0x82, 0xff];
        header.extend(bytes.to_be_bytes());
        header.extend([0; 4]);
        header
    }

    fn metered(memory: &Memory, session: u64) -> Metered {
        Metered::new(Meter::new(memory.account(ShareKey::Session(session)), SIZES))
    }

    fn poll(metered: &mut Metered) -> bool {
        metered.poll_room(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn memory_is_reserved_for_a_large_message_before_its_payload() {
        let memory = Memory::new(0);
        let mut metered = metered(&memory, 1);
        let small = limits::SOCKET_BUFFER_BYTES;
        // Three small messages, taken later, then a large one: all in one read.
        for _ in 0..3 {
            metered.meter.came(&mut header(small as u64)).unwrap();
            metered.meter.came(&mut vec![0; small]).unwrap();
        }
        assert!(poll(&mut metered) && memory.used(Class::Incoming) == 0);
        metered.meter.came(&mut header(100_000)).unwrap();
        assert!(poll(&mut metered));
        assert_eq!(memory.used(Class::Incoming), 200_000);
        assert!((0..3).all(|_| metered.meter.whole().is_none()));
        metered.meter.came(&mut vec![0; 100_000]).unwrap();
        assert_eq!(metered.meter.whole().map(|grant| grant.bytes()), Some(200_000));
        assert_eq!(memory.used(Class::Incoming), 0);
        // A message in several frames may reach the maximum length.
        metered.meter.came(&mut [0x02, 0x81, 0, 0, 0, 0, 7]).unwrap();
        assert!(poll(&mut metered));
        assert_eq!(memory.used(Class::Incoming), SIZES.largest * SIZES.times);
    }

    #[test]
    fn a_message_waits_while_there_is_no_memory() {
        let memory = Memory::new(0);
        let other = memory.account(ShareKey::Session(2));
        let held = other.try_reserve(Class::Incoming, memory.limit() / 16 * 12).unwrap();
        let mut metered = metered(&memory, 1);
        metered.meter.came(&mut header(1 << 20)).unwrap();
        assert!(!poll(&mut metered) && metered.meter.is_waiting());
        drop(held);
        assert!(poll(&mut metered) && !metered.meter.is_waiting());
    }

    #[test]
    fn a_stalled_message_gives_its_memory_to_waiters() {
        let memory = Memory::new(0);
        let mut slow = metered(&memory, 1);
        slow.meter.came(&mut header(1 << 20)).unwrap();
        assert!(poll(&mut slow));
        let back =
            Instant::now().checked_sub(limits::LARGE_LOOK).expect("the machine is up for longer");
        let watch_from =
            |at| slow.meter.state.lock().held.as_mut().unwrap().1.pace = Pace::since(at, 0);
        watch_from(back);
        assert!(!slow.meter.gives_up(true), "no other session waits for its memory");
        let rest = memory.account(ShareKey::Session(2));
        let rest = rest.take(Class::Answer, memory.limit());
        let mut waits = metered(&memory, 3);
        waits.meter.came(&mut header(1 << 20)).unwrap();
        assert!(!poll(&mut waits));
        watch_from(back);
        // While the relay itself does not read, nothing can arrive.
        assert!(!slow.meter.gives_up(false));
        slow.meter
            .came(&mut vec![
                0;
                2 * (limits::LARGE_LOOK.as_secs_f64() * limits::SLOWEST_LINK) as usize
            ])
            .unwrap();
        watch_from(back);
        assert!(!slow.meter.gives_up(true), "it arrives fast enough");
        let come = slow.meter.state.lock().wire.payload();
        slow.meter.state.lock().held.as_mut().unwrap().1.pace = Pace::since(back, come);
        assert!(slow.meter.gives_up(true) && !slow.meter.is_holding());
        assert!(poll(&mut slow), "the ending session reserves no more");
        drop(rest);
        assert!(poll(&mut waits));
    }

    #[test]
    fn pings_are_not_metered_as_messages_and_pongs_are_bounded() {
        let memory = Memory::new(0);
        let mut metered = metered(&memory, 1);
        let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
        ping.extend([0; 125]);
        for _ in 0..limits::PONGS_OWED_BYTES / 127 {
            metered.meter.came(&mut ping.clone()).unwrap();
        }
        assert!(!metered.meter.owes_much() && poll(&mut metered));
        metered.meter.came(&mut [&ping[..], &ping[..]].concat()).unwrap();
        assert!(metered.meter.owes_much());
        metered.meter.flushed();
        assert!(!metered.meter.owes_much());
    }
}
