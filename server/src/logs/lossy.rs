//! Passes log lines to their output: a queue bounded in bytes, and one thread that writes.
//!
//! Logging never blocks and never fails: a line that does not fit in the queue, or that the output does not
//! accept, is dropped and counted. The thread reports the number of dropped lines as soon as the output
//! accepts lines again. This module must not know a line's content.
//!
//! It must not panic, and must not write to any other output: see
//! `docs/decisions/0063-logging-loses-lines-instead-of-blocking.md`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

use crate::limits;

thread_local! {
    /// On the writing thread, during a report: the number of dropped lines that the pushed line reports.
    static REPORTED: Cell<u64> = const { Cell::new(0) };
}

/// The loggers' end of the queue. Clones share one queue.
#[derive(Clone)]
pub(super) struct Lossy {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
    /// Lines dropped since the start, for the metrics.
    lost: Counter,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    /// Bytes of `lines`.
    bytes: usize,
    /// Whether the thread is writing a line that is no longer in `lines`.
    is_writing: bool,
    is_closed: bool,
    /// Dropped lines not reported yet.
    unreported: u64,
}

struct Line {
    bytes: Vec<u8>,
    /// The number of dropped lines that it reports; 0 for an ordinary line.
    reports: u64,
}

/// On drop, writes the queued lines, for at most [`LOG_FLUSH`](crate::limits::LOG_FLUSH).
pub(super) struct Flush(Lossy);

impl Lossy {
    /// Starts the thread that writes to `output`. `report` logs the number of dropped lines; it runs on that
    /// thread.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        lost: Counter,
        report: fn(u64),
    ) -> io::Result<(Self, Flush)> {
        let (state, filled, emptied) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Arc::new(Queue { state, filled, emptied, lost });
        let for_thread = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || for_thread.run(output, report))?;
        let lossy = Self { queue };
        Ok((lossy.clone(), Flush(lossy)))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let queue = &self.0.queue;
        let by = Instant::now() + limits::LOG_FLUSH;
        let mut state = queue.state.lock();
        state.is_closed = true;
        queue.filled.notify_all();
        // An output that accepts nothing must not keep the process alive.
        while !state.is_settled() && !queue.emptied.wait_until(&mut state, by).timed_out() {}
    }
}

impl State {
    fn is_settled(&self) -> bool {
        self.lines.is_empty() && !self.is_writing
    }
}

impl Queue {
    /// Never waits for the output.
    fn push(&self, bytes: &[u8]) {
        let reports = REPORTED.get();
        let mut state = self.state.lock();
        if state.bytes.saturating_add(bytes.len()) > limits::LOG_QUEUE_BYTES {
            return self.lose(&mut state, reports);
        }
        state.bytes += bytes.len();
        state.lines.push_back(Line { bytes: bytes.to_vec(), reports });
        self.filled.notify_one();
    }

    /// A dropped report is repeated; it does not count as a line itself.
    fn lose(&self, state: &mut State, reports: u64) {
        if reports == 0 {
            self.lost.inc();
        }
        state.unreported = state.unreported.saturating_add(reports.max(1));
    }

    fn run(&self, mut output: impl Write, report: fn(u64)) {
        // Whether the output ends in the middle of a line.
        let mut is_torn = false;
        while let Some((line, unreported)) = self.next() {
            let wrote = line.map(|line| {
                let written = write_line(&mut output, &line.bytes, &mut is_torn);
                let mut state = self.state.lock();
                if !written {
                    self.lose(&mut state, line.reports);
                }
                written
            });
            // After a line that was written; or without one, to test the output.
            if unreported > 0 && wrote != Some(false) {
                self.report(report);
            }
        }
    }

    /// The next line and the number of unreported ones. No line: it is time to test the output again. `None`
    /// at the end.
    fn next(&self) -> Option<(Option<Line>, u64)> {
        let mut state = self.state.lock();
        state.is_writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.bytes.len();
                state.is_writing = true;
                return Some((Some(line), state.unreported));
            }
            self.emptied.notify_all();
            if state.is_closed {
                return None;
            }
            if state.unreported == 0 {
                self.filled.wait(&mut state);
            } else if self.filled.wait_for(&mut state, limits::LOG_RETRY).timed_out() {
                state.is_writing = true;
                return Some((None, state.unreported));
            }
        }
    }

    /// Queues a line that reports all drops so far.
    fn report(&self, report: fn(u64)) {
        let lines = std::mem::take(&mut self.state.lock().unreported);
        REPORTED.set(lines);
        report(lines);
        REPORTED.set(0);
    }
}

/// Whether the output accepted the whole line.
fn write_line(output: &mut impl Write, line: &[u8], is_torn: &mut bool) -> bool {
    if *is_torn && output.write_all(b"\n").is_err() {
        return false;
    }
    *is_torn = false;
    let mut rest = line;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => break,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    *is_torn = !rest.is_empty() && rest.len() < line.len();
    rest.is_empty() && output.flush().is_ok()
}

/// The text of one event on its way to the queue. The formatter passes each event in one call.
impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Writes one line to `output`, for at most `limit`, on a thread of its own: an output that accepts nothing
/// does not block the caller.
pub(super) fn write_within(mut output: impl Write + Send + 'static, line: String, limit: Duration) {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("last-line".to_owned()).spawn(move || {
        // If the output is closed, the exit code still reports the failure.
        let _ = writeln!(output, "{line}").and_then(|()| output.flush());
        let _ = sender.send(());
    });
    if thread.is_ok() {
        let _ = receiver.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output whose every write waits for the test to set its result.
    struct Asked {
        asks: mpsc::Sender<Vec<u8>>,
        outcomes: mpsc::Receiver<io::Result<usize>>,
    }

    impl Write for Asked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asks.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.outcomes.recv().map_err(io::Error::other)?
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Setup {
        lossy: Lossy,
        flush: Flush,
        asks: mpsc::Receiver<Vec<u8>>,
        outcomes: mpsc::Sender<io::Result<usize>>,
        lost: Counter,
    }

    impl Setup {
        /// `report` cannot capture: each test has a function of its own.
        fn new(report: fn(u64)) -> Self {
            let ((asks, asked), (sender, outcomes)) = (mpsc::channel(), mpsc::channel());
            let lost = Counter::default();
            let output = Asked { asks, outcomes };
            let (lossy, flush) = Lossy::start(output, lost.clone(), report).unwrap();
            Self { lossy, flush, asks: asked, outcomes: sender, lost }
        }

        /// Expects the next write, and sets its result.
        fn meets(&self, wanted: &[u8], outcome: io::Result<usize>) {
            let written = self.asks.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(wanted));
            self.outcomes.send(outcome).unwrap();
        }
    }

    fn full() -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn lines_that_overflow_the_buffer_are_counted_and_nothing_blocks() {
        let mut setup = Setup::new(|_| ());
        setup.lossy.write_all(b"first\n").unwrap();
        // The thread blocks in its first write from here on.
        let written = setup.asks.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(written, b"first\n");
        let line = vec![b'x'; 1024];
        for _ in 0..limits::LOG_QUEUE_BYTES / line.len() {
            setup.lossy.write_all(&line).unwrap();
        }
        assert_eq!(setup.lost.get(), 0);
        for _ in 0..3 {
            setup.lossy.write_all(&line).unwrap();
        }
        assert_eq!(setup.lost.get(), 3);
        // The process ends although the output accepts nothing: bounded by LOG_FLUSH.
        drop(setup.flush);
    }

    static REPORTING: Mutex<Option<Lossy>> = Mutex::new(None);

    #[test]
    fn lost_lines_are_reported_once_when_the_output_recovers() {
        let report = |lines| {
            let lossy = REPORTING.lock().clone();
            // In one write, as the subscriber does: each write is a line.
            lossy.unwrap().write_all(format!("{lines} lost\n").as_bytes()).unwrap();
        };
        let mut setup = Setup::new(report);
        *REPORTING.lock() = Some(setup.lossy.clone());
        setup.lossy.write_all(b"one\n").unwrap();
        setup.meets(b"one\n", full());
        setup.lossy.write_all(b"two\n").unwrap();
        setup.meets(b"two\n", Ok(2));
        setup.meets(b"o\n", full());
        // The torn line is ended before the next begins.
        setup.lossy.write_all(b"three\n").unwrap();
        setup.meets(b"\n", Ok(1));
        setup.meets(b"three\n", Ok(6));
        // A dropped report is repeated, and does not count as a dropped line.
        setup.meets(b"2 lost\n", full());
        setup.lossy.write_all(b"four\n").unwrap();
        setup.meets(b"four\n", Ok(5));
        setup.meets(b"2 lost\n", Ok(7));
        assert_eq!(setup.lost.get(), 2);
        setup.lossy.write_all(b"five\n").unwrap();
        setup.meets(b"five\n", Ok(5));
        drop(setup.flush);
        assert!(setup.asks.try_recv().is_err(), "nothing more was lost");
        *REPORTING.lock() = None;
    }

    #[test]
    fn logged_lines_are_written_before_the_end() {
        let mut setup = Setup::new(|_| ());
        for outcome in [Ok(2), Ok(2)] {
            setup.outcomes.send(outcome).unwrap();
        }
        setup.lossy.write_all(b"a\n").unwrap();
        setup.lossy.write_all(b"b\n").unwrap();
        drop(setup.flush);
        assert_eq!(setup.asks.try_iter().collect::<Vec<_>>(), [b"a\n", b"b\n"]);
    }
}
