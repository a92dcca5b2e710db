//! Parses the frames of a WebSocket (RFC 6455, section 5.2) as a client's bytes pass to the library that
//! reads them.
//!
//! The frame header gives a message's size before its payload is read. A data frame larger than the library's
//! read buffer is passed on in several frames, which section 5.4 permits an intermediary: the library would
//! otherwise keep its buffer at the size of the largest frame for the lifetime of the connection.
//!
//! Some violations end the stream at the header, before the library would have read all of the frame. No
//! memory is reserved for them: control frames that are too long or fragmented, continuations of nothing, and
//! a message within another.

/// The largest frame header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES: usize = 14;

/// The bit of the first byte: this is the message's last frame.
const LAST: u8 = 0x80;

/// The bit of the second byte: the header ends with four bytes of mask.
const MASKED: u8 = 0x80;

/// The content of a frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// The first frame of a message, and its payload. `whole`: it is the only one.
    Message { bytes: u64, whole: bool },
    /// A continuation frame of a message.
    Continued,
    /// A ping, with the number of bytes that its pong repeats.
    Ping { bytes: u64 },
    /// A pong or a close.
    Control,
}

/// A header, or its first bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Header {
    bytes: [u8; HEADER_BYTES],
    have: usize,
}

/// A frame that is split into several.
#[derive(Debug, Default, Clone, Copy)]
struct Cut {
    /// Its bytes after the current piece.
    rest: u64,
    /// The first byte of the last piece's header.
    end: u8,
    mask: Option<[u8; 4]>,
}

/// The state of the stream's parser.
#[derive(Debug)]
pub(super) struct Wire {
    /// The largest payload passed on in one frame; a multiple of the mask's length.
    piece: u64,
    /// The largest message. The header of a larger frame is passed on unchanged, for the library to reject.
    largest: u64,
    /// The current frame's header as far as received; it is passed on once complete.
    header: Header,
    /// A header to pass on before anything more is read.
    due: Header,
    /// Bytes of the current frame, or piece, still to come.
    left: u64,
    cut: Cut,
    /// Whether a message has begun whose last frame has not.
    is_open: bool,
    /// Payload bytes of messages received so far.
    payload: u64,
    is_data: bool,
}

/// The peer violates the framing in a way for which no memory was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// Largest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES: u64 = 125;

impl Wire {
    /// For a library with this read buffer and this largest message.
    pub(super) fn new(buffer: usize, largest: usize) -> Self {
        Self {
            piece: ((buffer - HEADER_BYTES) / 4 * 4) as u64,
            largest: largest as u64,
            header: Header::default(),
            due: Header::default(),
            left: 0,
            cut: Cut::default(),
            is_open: false,
            payload: 0,
            is_data: false,
        }
    }

    /// Payload bytes of messages received, without headers and control frames.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    /// Takes up to `most` bytes of a header to pass on before anything more is read.
    pub(super) fn take_due(&mut self, most: usize) -> Header {
        let mut taken = self.due;
        taken.have = most.min(taken.have);
        self.due.bytes.copy_within(taken.have.., 0);
        self.due.have -= taken.have;
        taken
    }

    /// The next permitted read.
    pub(super) fn next_read(&self) -> NextRead {
        match (self.header.have, self.cut.rest) {
            // At most one piece: the bytes after a header in the same read are not split.
            (0, 0) => NextRead::Bytes(self.piece as usize),
            // Exactly the rest of the piece: the next piece's header must follow it.
            (0, _) => NextRead::Bytes(usize::try_from(self.left).unwrap_or(usize::MAX)),
            _ => NextRead::Header(self.header.missing()),
        }
    }

    /// Adds bytes to an incomplete header, and no byte beyond it.
    pub(super) fn pass_header(
        &mut self,
        bytes: &[u8],
        begun: &mut impl FnMut(Begun),
    ) -> Result<(), Violation> {
        for byte in bytes {
            if let Some(header) = self.header_byte(*byte, begun)? {
                self.due = header;
            }
        }
        Ok(())
    }

    /// Passes bytes that were read, and calls `begun` for each frame that begins in them. Returns how many of
    /// them, from the front, to pass on.
    pub(super) fn pass(
        &mut self,
        bytes: &mut [u8],
        begun: &mut impl FnMut(Begun),
    ) -> Result<usize, Violation> {
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - read);
            if payload > 0 {
                if kept < read {
                    bytes.copy_within(read..read + payload, kept);
                }
                (read, kept) = (read + payload, kept + payload);
                self.came(payload as u64);
                continue;
            }
            let header = self.header_byte(bytes[read], begun)?;
            read += 1;
            if let Some(header) = header {
                // Never longer than the received header, so it fits in its place.
                bytes[kept..kept + header.have].copy_from_slice(header.as_bytes());
                kept += header.have;
            }
        }
        Ok(kept)
    }

    /// `bytes` bytes of the current frame, or piece, arrived.
    fn came(&mut self, bytes: u64) {
        self.left -= bytes;
        self.payload += if self.is_data { bytes } else { 0 };
        if self.left == 0 && self.cut.rest > 0 {
            self.left = self.cut.rest.min(self.piece);
            self.cut.rest -= self.left;
            let first = if self.cut.rest == 0 { self.cut.end } else { 0 };
            self.due = Header::new(first, self.left, self.cut.mask);
        }
    }

    /// Adds a byte to the header. The last one begins the frame, and returns the header to pass on.
    fn header_byte(
        &mut self,
        byte: u8,
        begun: &mut impl FnMut(Begun),
    ) -> Result<Option<Header>, Violation> {
        self.header.bytes[self.header.have] = byte;
        self.header.have += 1;
        let Some((frame, length, mask)) = self.header.frame() else { return Ok(None) };
        let header = std::mem::take(&mut self.header);
        let first = header.bytes[0];
        self.check(frame, length, first & LAST != 0)?;
        begun(frame);
        (self.left, self.cut) = (length, Cut::default());
        if !self.is_data || length <= self.piece || length > self.largest {
            return Ok(Some(header));
        }
        self.left = self.piece;
        self.cut = Cut { rest: length - self.piece, end: first & LAST, mask };
        Ok(Some(Header::new(first & !LAST, self.piece, mask)))
    }

    fn check(&mut self, frame: Begun, length: u64, is_last: bool) -> Result<(), Violation> {
        self.is_data = matches!(frame, Begun::Message { .. } | Begun::Continued);
        match frame {
            Begun::Ping { .. } | Begun::Control if length > CONTROL_BYTES || !is_last => {
                return Err(Violation("a control frame longer than 125 bytes, or fragmented"));
            }
            Begun::Continued if !self.is_open => {
                return Err(Violation("a continuation without a message"));
            }
            Begun::Message { .. } if self.is_open => {
                return Err(Violation("a message within another"));
            }
            Begun::Continued | Begun::Message { .. } => self.is_open = !is_last,
            Begun::Ping { .. } | Begun::Control => {}
        }
        Ok(())
    }
}

/// The next permitted read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextRead {
    /// At most this many bytes.
    Bytes(usize),
    /// At most this many bytes, for [`Wire::pass_header`].
    Header(usize),
}

impl Header {
    /// A header with this first byte, length and mask, in its shortest form.
    fn new(first: u8, length: u64, mask: Option<[u8; 4]>) -> Self {
        let mut header = Self::default();
        let masked = if mask.is_some() { MASKED } else { 0 };
        header.add(&[first]);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ ..=125), _) => header.add(&[masked | length]),
            (_, Ok(length)) => {
                header.add(&[masked | 126]);
                header.add(&length.to_be_bytes());
            }
            _ => {
                header.add(&[masked | 127]);
                header.add(&length.to_be_bytes());
            }
        }
        header.add(mask.as_ref().map_or(&[], |mask| &mask[..]));
        header
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.have..self.have + bytes.len()].copy_from_slice(bytes);
        self.have += bytes.len();
    }

    /// The bytes received so far.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.have]
    }

    /// Bytes of the length after the second byte, and of the mask.
    fn parts(&self) -> (usize, usize) {
        let extended = match self.bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        (extended, if self.bytes[1] & MASKED == 0 { 0 } else { 4 })
    }

    /// The least number of bytes still missing.
    fn missing(&self) -> usize {
        let (extended, mask) = self.parts();
        let whole = if self.have < 2 { 2 } else { 2 + extended + mask };
        whole - self.have
    }

    /// The content of a complete header: the frame, the length of its payload, its mask.
    fn frame(&self) -> Option<(Begun, u64, Option<[u8; 4]>)> {
        let ((extended, masked), header) = (self.parts(), self.as_bytes());
        if header.len() < 2 || header.len() < 2 + extended + masked {
            return None;
        }
        let (length, mask) = header[2..].split_at(extended);
        let bytes = match extended {
            0 => u64::from(header[1] & 0x7f),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let begun = match header[0] & 0x0f {
            0 => Begun::Continued,
            1..=7 => Begun::Message { bytes, whole: header[0] & LAST != 0 },
            9 => Begun::Ping { bytes },
            _ => Begun::Control,
        };
        Some((begun, bytes, mask.try_into().ok()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use landfall_test_rng::Rng;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::{Message, WebSocket};

    use super::*;

    const BUFFER: usize = 4_096;
    const LARGEST: usize = 1 << 20;

    fn wire() -> Wire {
        Wire::new(BUFFER, LARGEST)
    }

    /// The bytes that a client writes.
    fn written(messages: &[Message]) -> Vec<u8> {
        let mut client =
            WebSocket::from_raw_socket(std::io::Cursor::new(vec![]), Role::Client, None);
        messages.iter().for_each(|message| client.send(message.clone()).unwrap());
        client.get_ref().get_ref().clone()
    }

    /// The bytes passed on when a socket is read in pieces of one size.
    fn passed(
        wire: &mut Wire,
        bytes: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, Vec<Begun>), Violation> {
        let (mut out, mut all, mut rest) = (Vec::new(), Vec::new(), bytes);
        while !rest.is_empty() {
            out.extend(wire.take_due(3).as_bytes());
            out.extend(wire.take_due(HEADER_BYTES).as_bytes());
            let (most, is_header) = match wire.next_read() {
                NextRead::Bytes(most) => (most.min(size), false),
                NextRead::Header(most) => (most.min(size), true),
            };
            let (read, after) = rest.split_at(most.min(rest.len()));
            let mut read = read.to_vec();
            rest = after;
            if is_header {
                wire.pass_header(&read, &mut |begun| all.push(begun))?;
            } else {
                let kept = wire.pass(&mut read, &mut |begun| all.push(begun))?;
                out.extend(&read[..kept]);
            }
        }
        out.extend(wire.take_due(HEADER_BYTES).as_bytes());
        Ok((out, all))
    }

    fn begun(messages: &[Message], size: usize) -> Vec<Begun> {
        passed(&mut wire(), &written(messages), size).unwrap().1
    }

    /// A socket that contains these bytes.
    struct Socket<'a>(&'a [u8]);

    impl Read for Socket<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Socket<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_are_found_by_header_however_the_stream_is_split() {
        let whole = true;
        let messages = [
            Message::Binary(vec![7; 125].into()),
            Message::Ping(vec![1; 3].into()),
            Message::Binary(vec![7; 126].into()),
            Message::Pong(vec![].into()),
            Message::Text("x".repeat(70_000).into()),
            Message::Binary(vec![].into()),
        ];
        let expected = vec![
            Begun::Message { bytes: 125, whole },
            Begun::Ping { bytes: 3 },
            Begun::Message { bytes: 126, whole },
            Begun::Control,
            Begun::Message { bytes: 70_000, whole },
            Begun::Message { bytes: 0, whole },
        ];
        for size in [1, 2, 3, 7, 1_000, 1 << 20] {
            assert_eq!(begun(&messages, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn large_frames_are_forwarded_in_parts_unchanged() {
        let numbered = |bytes: usize| -> Vec<u8> { (0..bytes).map(|n| (n % 251) as u8).collect() };
        let piece = wire().piece as usize;
        let messages: Vec<_> =
            [70_000, 3, piece - 1, piece, piece + 1, 2 * piece, 2 * piece + 1, 70_000, LARGEST]
                .into_iter()
                .flat_map(|bytes| {
                    [Message::Binary(numbered(bytes).into()), Message::Ping(vec![5; 9].into())]
                })
                .chain([Message::Text("\u{e4}".repeat(40_000).into())])
                .collect();
        let bytes = written(&messages);
        for size in [1, 5, 13, 14, 1_000, BUFFER, 1 << 20] {
            let (out, _) = passed(&mut wire(), &bytes, size).unwrap();
            let mut again = WebSocket::from_raw_socket(Socket(&out), Role::Server, None);
            for message in &messages {
                assert_eq!(&again.read().unwrap(), message, "in pieces of {size}");
            }
            let (mut checking, mut largest) = (Wire::new(1 << 30, 1 << 30), 0);
            let note = &mut |begun| match begun {
                Begun::Message { bytes, .. } => largest = largest.max(bytes as usize),
                Begun::Continued | Begun::Ping { .. } | Begun::Control => {}
            };
            checking.pass(&mut out.clone(), note).unwrap();
            assert_eq!(largest, piece, "no frame is larger than a piece");
        }
    }

    #[test]
    fn a_length_beyond_all_limits_is_only_reported() {
        let header = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5];
        let (out, all) = passed(&mut wire(), &header, header.len()).unwrap();
        assert_eq!(all, [Begun::Message { bytes: u64::MAX, whole: false }]);
        assert_eq!(out, header, "the library refuses it");
    }

    #[test]
    fn frames_without_reserved_memory_are_violations() {
        let refused = |bytes: &[u8]| passed(&mut wire(), bytes, bytes.len()).is_err();
        let ping = [0x89, 0x80 | 126, 0, 126, 0, 0, 0, 0];
        let largest = [0x89, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let in_parts = [0x09, 0x80, 0, 0, 0, 0];
        let continued = [0x80, 0x81, 0, 0, 0, 0];
        let within = [0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0];
        assert!(refused(&ping) && refused(&largest) && refused(&in_parts));
        assert!(refused(&continued) && refused(&within));
        let honest = [0x02, 0x80, 0, 0, 0, 0, 0x89, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0];
        assert!(!refused(&honest) && !refused(&[honest, honest].concat()));
    }

    /// A frame in one of the forms that a peer may write, valid or not.
    fn frame(rng: &mut Rng, first: u8, payload: &[u8]) -> Vec<u8> {
        let masked = rng.below(60) != 0;
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut out = vec![first];
        let length = payload.len() as u64;
        match rng.below(4) {
            0 if length <= 65_535 => {
                out.push(mask_bit | 126);
                out.extend((length as u16).to_be_bytes());
            }
            1 => {
                out.push(mask_bit | 127);
                out.extend(length.to_be_bytes());
            }
            _ => match length {
                0..=125 => out.push(mask_bit | length as u8),
                126..=65_535 => {
                    out.push(mask_bit | 126);
                    out.extend((length as u16).to_be_bytes());
                }
                _ => {
                    out.push(mask_bit | 127);
                    out.extend(length.to_be_bytes());
                }
            },
        }
        let mask: [u8; 4] = std::array::from_fn(|_| rng.below(256) as u8);
        if masked {
            out.extend(mask);
        }
        let mask = if masked { mask } else { [0; 4] };
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        out
    }

    /// Messages, whole and fragmented, with control frames between, some in violation of the protocol;
    /// perhaps cut.
    fn stream(rng: &mut Rng) -> Vec<u8> {
        let mut out = Vec::new();
        let piece = wire().piece;
        let odd = |rng: &mut Rng, kind: u8| match rng.below(120) {
            0 => kind | 0x40,
            1 => kind | 0x20,
            2 => 3,
            3 => kind ^ 0x80,
            4 => 0x8b,
            _ => kind,
        };
        for _ in 0..1 + rng.below(6) {
            let parts = match rng.below(3) {
                0 => 1 + rng.below(5),
                _ => 1,
            };
            let text = rng.below(3) == 0;
            for part in 0..parts {
                let length = match rng.below(8) {
                    0 => 0,
                    1 => rng.below(130),
                    2 => piece - 2 + rng.below(5),
                    3 => 2 * piece - 2 + rng.below(5),
                    4 => rng.below(70_000),
                    5 if rng.below(20) == 0 => LARGEST as u64 - 1 + rng.below(3),
                    _ => rng.below(3 * piece),
                };
                let mut payload: Vec<u8> = match text {
                    true => "\u{e4}b\u{20ac}".bytes().cycle().take(length as usize).collect(),
                    false => (0..length).map(|n| (n % 251) as u8).collect(),
                };
                if text && parts == 1 {
                    while std::str::from_utf8(&payload).is_err() {
                        payload.pop();
                    }
                }
                let kind = match (part, text) {
                    (0, true) => 1,
                    (0, false) => 2,
                    _ => 0,
                };
                let last = if part + 1 == parts { LAST } else { 0 };
                let first = odd(rng, kind | last);
                out.extend(frame(rng, first, &payload));
                while rng.below(3) == 0 {
                    let kind = [0x89, 0x8a, 0x89, 0x8a, 0x89, 0x88][rng.below(6) as usize];
                    let kind = if kind == 0x88 && rng.below(6) != 0 { 0x8a } else { kind };
                    let first = odd(rng, kind);
                    let length = if rng.below(40) == 0 { 126 } else { rng.below(126) };
                    let length = if kind == 0x88 { 0 } else { length };
                    out.extend(frame(rng, first, &vec![9; length as usize]));
                }
            }
        }
        if rng.below(2) == 0 {
            let end = rng.below(out.len() as u64 + 1);
            out.truncate(end as usize);
        }
        out
    }

    /// The messages that the library reads until the end, and its error.
    fn read(bytes: &[u8]) -> (Vec<Message>, String) {
        use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .max_message_size(Some(LARGEST))
            .max_frame_size(Some(LARGEST));
        let mut socket = WebSocket::from_raw_socket(Socket(bytes), Role::Server, Some(config));
        let mut all = Vec::new();
        loop {
            match socket.read() {
                Ok(message) => all.push(message),
                Err(error) => return (all, error.to_string()),
            }
        }
    }

    #[test]
    fn the_library_reads_what_the_client_sent() {
        let mut seen = 0;
        for seed in 0..1_000 {
            let mut rng = Rng::new(seed);
            let bytes = stream(&mut rng);
            let (expected, end) = read(&bytes);
            let size = [1, 2, 3, 14, 100, 4_083, BUFFER, 1 << 20][rng.below(8) as usize];
            // In a stream that is cut, the library does not report a violation before the frame's end.
            let Ok((out, _)) = passed(&mut wire(), &bytes, size) else { continue };
            let (found, other) = read(&out);
            assert!(found == expected, "seed {seed}, size {size}");
            // Invalid text is detected earlier: its session ends in either case.
            let reasons = ["UTF-8", "without closing", "Space limit"];
            let either = |end: &str| reasons.iter().any(|what| end.contains(what));
            let is_same = other[..12] == end[..12] || either(&other) && either(&end);
            assert!(is_same, "seed {seed}: {other}, {end}");
            seen += found.len();
        }
        assert!(seen > 1_000, "{seen} messages were compared");
    }
}
