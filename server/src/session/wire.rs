//! The lengths of WebSocket frames (RFC 6455, section 5.2) as their bytes pass: how large a message
//! is going to be is known from its frame's header, before its payload is read.
//!
//! It ends what the WebSocket would only judge once it has read all of it: control frames that are too
//! long, and continuations of nothing, for which no memory is reserved.

/// The most that a frame's header takes: two bytes, eight of length, four of mask.
const HEADER_BYTES: usize = 14;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// The first frame of a message, and its payload. `whole`: there are no others.
    Message { bytes: u64, whole: bool },
    /// Another frame of a message that has begun.
    Continued,
    /// A ping, with so many bytes that its pong repeats.
    Ping { bytes: u64 },
    /// A pong or a close.
    Control,
}

/// Where the stream stands.
#[derive(Debug, Default)]
pub(super) struct Wire {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the present frame's payload that are to come.
    left: u64,
    /// A message has begun whose last frame has not.
    is_open: bool,
    /// Payload bytes of messages that have come.
    payload: u64,
    is_data: bool,
}

/// The peer breaks the framing in a way for which no memory was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// Bytes that a control frame may have (RFC 6455, section 5.5).
const CONTROL_BYTES: u64 = 125;

impl Wire {
    /// Bytes of the present frame's payload that are to come.
    pub(super) fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// Payload bytes of messages that have come, without headers and control frames.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    /// Takes bytes that were read, and tells of each frame that begins in them.
    pub(super) fn pass(
        &mut self,
        mut bytes: &[u8],
        mut begun: impl FnMut(Begun),
    ) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if payload > 0 {
                self.left -= payload as u64;
                self.payload += if self.is_data { payload as u64 } else { 0 };
                bytes = &bytes[payload..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some((frame, length)) = self.frame() {
                let is_last = self.header[0] & 0x80 != 0;
                (self.have, self.left) = (0, length);
                self.check(frame, length, is_last)?;
                begun(frame);
            }
        }
        Ok(())
    }

    fn check(&mut self, frame: Begun, length: u64, is_last: bool) -> Result<(), Violation> {
        self.is_data = matches!(frame, Begun::Message { .. } | Begun::Continued);
        match frame {
            Begun::Ping { .. } | Begun::Control if length > CONTROL_BYTES || !is_last => {
                return Err(Violation(
                    "a control frame that is longer than 125 bytes, or in parts",
                ));
            }
            Begun::Continued if !self.is_open => {
                return Err(Violation("a continuation of no message"));
            }
            Begun::Message { .. } if self.is_open => {
                return Err(Violation("a message within another"));
            }
            Begun::Continued | Begun::Message { .. } => self.is_open = !is_last,
            Begun::Ping { .. } | Begun::Control => {}
        }
        Ok(())
    }

    /// The frame whose header is whole, and the length of its payload.
    fn frame(&self) -> Option<(Begun, u64)> {
        let header = &self.header[..self.have];
        let (first, second) = (*header.first()?, *header.get(1)?);
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if header.len() < 2 + extended + mask {
            return None;
        }
        let bytes = match extended {
            0 => u64::from(second & 0x7f),
            _ => header[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let begun = match first & 0x0f {
            0 => Begun::Continued,
            1..=7 => Begun::Message { bytes, whole: first & 0x80 != 0 },
            9 => Begun::Ping { bytes },
            _ => Begun::Control,
        };
        Some((begun, bytes))
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::{Message, WebSocket};

    use super::*;

    /// What a client writes, cut into pieces of one size.
    fn begun(messages: &[Message], piece: usize) -> Vec<Begun> {
        let mut client =
            WebSocket::from_raw_socket(std::io::Cursor::new(vec![]), Role::Client, None);
        messages.iter().for_each(|message| client.send(message.clone()).unwrap());
        let (mut wire, mut all) = (Wire::default(), Vec::new());
        let bytes = client.get_ref().get_ref();
        bytes.chunks(piece).for_each(|chunk| wire.pass(chunk, |begun| all.push(begun)).unwrap());
        all
    }

    #[test]
    fn frames_are_told_by_their_headers_however_the_stream_is_cut() {
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
        for piece in [1, 2, 3, 7, 1_000, 1 << 20] {
            assert_eq!(begun(&messages, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_length_beyond_all_limits_is_only_told() {
        let mut all = Vec::new();
        let header = [0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5];
        Wire::default().pass(&header, |begun| all.push(begun)).unwrap();
        assert_eq!(all, [Begun::Message { bytes: u64::MAX, whole: false }]);
    }

    #[test]
    fn what_would_be_read_without_memory_is_a_violation() {
        let refused = |bytes: &[u8]| Wire::default().pass(bytes, |_| ()).is_err();
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
}
