//! The codec: the only file that knows bincode.
//!
//! bincode's legacy configuration: fixed-width little-endian integers, u64 lengths, an explicit
//! byte limit (without one, 16 hostile bytes make bincode 2.0.1 abort).

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{FLAG_OPTIONAL, Frame, kind};
use crate::code::Code;
use crate::limits;

type Config = Configuration<LittleEndian, Fixint, Limit<{ limits::MESSAGE_BYTES }>>;

const fn config() -> Config {
    bincode::config::legacy().with_limit::<{ limits::MESSAGE_BYTES }>()
}

/// Why bytes are not a message of frames. The peer is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The message is longer than a peer may send.
    #[error("a message of {actual} bytes; the limit is {limit}")]
    TooLarge {
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The message ends inside a frame, or holds none.
    #[error("the message ends at byte {at} inside a frame that needs {needs} more")]
    Truncated {
        /// Where it ends, in bytes.
        at: usize,
        /// The number of missing bytes.
        needs: usize,
    },
    /// A kind that this version does not know, not marked optional.
    #[error(
        "frame kind {kind} is unknown and not optional; upgrade this side to a version that knows it"
    )]
    UnknownKind {
        /// The kind's number.
        kind: u16,
    },
    /// A flag that this version does not know.
    #[error("frame kind {kind} carries unknown flags {flags:#06x}")]
    UnknownFlags {
        /// The frame's kind.
        kind: u16,
        /// Its flags.
        flags: u16,
    },
    /// The body does not have the form of its kind.
    #[error("the body of frame kind {kind} is malformed: {what}")]
    Body {
        /// The frame's kind.
        kind: u16,
        /// The defect.
        what: String,
    },
    /// A field is longer than its limit.
    #[error("{field} has {actual}; the limit is {limit}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its length.
        actual: usize,
        /// The limit.
        limit: usize,
    },
}

impl FrameError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } | Self::Field { .. } => Code::TOO_LARGE,
            Self::UnknownKind { .. } => Code::UNKNOWN_FRAME,
            Self::Truncated { .. } | Self::UnknownFlags { .. } | Self::Body { .. } => {
                Code::MALFORMED
            }
        }
    }
}

/// Encodes one frame as a message.
pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    encode_into(frame, &mut message);
    message
}

/// Appends one frame to a message.
pub fn encode_into(frame: &Frame, message: &mut Vec<u8>) {
    match frame {
        Frame::Hello(body) => write(message, kind::HELLO, body),
        Frame::Welcome(body) => write(message, kind::WELCOME, body),
        Frame::Error(body) => write(message, kind::ERROR, body),
        Frame::Subscribe(body) => write(message, kind::SUBSCRIBE, body),
        Frame::Subscribed(body) => write(message, kind::SUBSCRIBED, body),
        Frame::Unsubscribe(body) => write(message, kind::UNSUBSCRIBE, body),
        Frame::Unsubscribed(body) => write(message, kind::UNSUBSCRIBED, body),
        Frame::Entries(body) => write(message, kind::ENTRIES, body),
        Frame::Push(body) => write(message, kind::PUSH, body),
        Frame::Ack(body) => write(message, kind::ACK, body),
        Frame::Nack(body) => write(message, kind::NACK, body),
        Frame::Ping(body) => write(message, kind::PING, body),
        Frame::Pong(body) => write(message, kind::PONG, body),
        Frame::Close(body) => write(message, kind::CLOSE, body),
        later => encode_later(later, message),
    }
}

/// Frames that a peer may not know.
fn encode_later(frame: &Frame, message: &mut Vec<u8>) {
    match frame {
        Frame::Features(body) => write_optional(message, kind::FEATURES, body),
        Frame::Ephemeral(body) => write_optional(message, kind::EPHEMERAL, body),
        Frame::Resend(body) => write_optional(message, kind::RESEND, body),
        Frame::Resent(body) => write_optional(message, kind::RESENT, body),
        Frame::Repaired(body) => write_optional(message, kind::REPAIRED, body),
        Frame::SubscribeFrom(body) => write(message, kind::SUBSCRIBE_FROM, body),
        Frame::Part(body) => write(message, kind::PART, body),
        Frame::PushSnapshot(body) => write(message, kind::PUSH_SNAPSHOT, body),
        Frame::UploadFrom(body) => write(message, kind::WANTED, body),
        Frame::PushEntry(body) => write(message, kind::PUSH_ENTRY, body),
        Frame::Digest(body) => write(message, kind::DIGEST, body),
        Frame::Difference(body) => write(message, kind::DIFFERENCE, body),
        Frame::Fetch(body) => write(message, kind::FETCH, body),
        Frame::Document(body) => write(message, kind::DOCUMENT, body),
        Frame::Refilter(body) => write(message, kind::REFILTER, body),
        Frame::Compared(body) => write(message, kind::COMPARED, body),
        Frame::Token(body) => write(message, kind::TOKEN, body),
        _ => debug_assert!(false, "a frame that `encode_into` cannot encode"),
    }
}

/// Appends a frame with an encoded body: for frames of another version in tests, and for entries
/// that were encoded when they became durable.
pub fn raw_frame(kind: u16, flags: u16, body: &[u8], message: &mut Vec<u8>) {
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&flags.to_le_bytes());
    message.extend_from_slice(&(body.len() as u32).to_le_bytes());
    message.extend_from_slice(body);
}

fn write<T: Serialize>(message: &mut Vec<u8>, kind: u16, body: &T) {
    let start = message.len();
    raw_frame(kind, 0, &[], message);
    append_body(body, message);
    let length = message.len() - start - limits::FRAME_HEADER_BYTES;
    message[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
}

fn write_optional<T: Serialize>(message: &mut Vec<u8>, kind: u16, body: &T) {
    let flags_at = message.len() + 2;
    write(message, kind, body);
    message[flags_at] |= FLAG_OPTIONAL as u8;
}

/// Appends a value in the codec's encoding.
pub(super) fn append_body<T: Serialize>(body: &T, out: &mut Vec<u8>) {
    // Writing needs no limit: the values were bounded when they were made.
    let written = bincode::serde::encode_into_std_write(body, out, bincode::config::legacy());
    debug_assert!(
        written.is_ok(),
        "writing to a Vec cannot fail, and our types serialize: {written:?}"
    );
}

/// Decodes the one frame of a message. For messages of several frames see [`Frames`].
pub fn decode(message: &[u8]) -> Result<Frame, FrameError> {
    let mut frames = Frames::new(message)?;
    match frames.next() {
        Some(frame) => frame,
        None => Err(FrameError::Truncated { at: 0, needs: limits::FRAME_HEADER_BYTES }),
    }
}

/// The frames of one message, in order; unknown optional ones are skipped. It ends after the first
/// error.
pub struct Frames<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Checks the length of the message.
    pub fn new(message: &'a [u8]) -> Result<Self, FrameError> {
        Self::from(message, 0)
    }

    /// The frames from this byte on, which must be the beginning of one.
    pub fn from(message: &'a [u8], at: usize) -> Result<Self, FrameError> {
        if message.len() > limits::MESSAGE_BYTES {
            let (actual, limit) = (message.len(), limits::MESSAGE_BYTES);
            return Err(FrameError::TooLarge { actual, limit });
        }
        Ok(Self { message, at: at.min(message.len()) })
    }

    /// The offset of the next frame.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether the last frame was read.
    pub fn is_done(&self) -> bool {
        self.at >= self.message.len()
    }

    fn next_known(&mut self) -> Option<Result<Frame, FrameError>> {
        while self.at < self.message.len() {
            match self.next_raw().and_then(|(kind, flags, body)| decode_body(kind, flags, body)) {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => continue,
                Err(error) => {
                    self.at = self.message.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn next_raw(&mut self) -> Result<(u16, u16, &'a [u8]), FrameError> {
        let rest = &self.message[self.at..];
        let missing = |needs: usize| FrameError::Truncated {
            at: self.message.len(),
            needs: needs - rest.len(),
        };
        let Some((header, body)) = rest.split_at_checked(limits::FRAME_HEADER_BYTES) else {
            return Err(missing(limits::FRAME_HEADER_BYTES));
        };
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let flags = u16::from_le_bytes([header[2], header[3]]);
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let Some(body) = body.get(..length) else {
            return Err(missing(limits::FRAME_HEADER_BYTES + length));
        };
        self.at += limits::FRAME_HEADER_BYTES + length;
        Ok((kind, flags, body))
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Frame, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_known()
    }
}

/// `None` for an unknown optional frame.
fn decode_body(kind: u16, flags: u16, body: &[u8]) -> Result<Option<Frame>, FrameError> {
    if flags & !FLAG_OPTIONAL != 0 {
        return Err(FrameError::UnknownFlags { kind, flags });
    }
    let frame = match kind {
        kind::HELLO => Frame::Hello(read(kind, body)?),
        kind::WELCOME => Frame::Welcome(read(kind, body)?),
        kind::ERROR => Frame::Error(read(kind, body)?),
        kind::SUBSCRIBE => Frame::Subscribe(read(kind, body)?),
        kind::SUBSCRIBED => Frame::Subscribed(read(kind, body)?),
        kind::UNSUBSCRIBE => Frame::Unsubscribe(read(kind, body)?),
        kind::UNSUBSCRIBED => Frame::Unsubscribed(read(kind, body)?),
        kind::ENTRIES => Frame::Entries(read(kind, body)?),
        kind::PUSH => Frame::Push(read(kind, body)?),
        kind::ACK => Frame::Ack(read(kind, body)?),
        kind::NACK => Frame::Nack(read(kind, body)?),
        kind::PING => Frame::Ping(read(kind, body)?),
        kind::PONG => Frame::Pong(read(kind, body)?),
        kind::CLOSE => Frame::Close(read(kind, body)?),
        kind::FEATURES => Frame::Features(read(kind, body)?),
        kind::EPHEMERAL => Frame::Ephemeral(read(kind, body)?),
        kind::SUBSCRIBE_FROM => Frame::SubscribeFrom(read(kind, body)?),
        kind::PART => Frame::Part(read(kind, body)?),
        kind::PUSH_SNAPSHOT => Frame::PushSnapshot(read(kind, body)?),
        kind::WANTED => Frame::UploadFrom(read(kind, body)?),
        kind::PUSH_ENTRY => Frame::PushEntry(read(kind, body)?),
        kind::DIGEST => Frame::Digest(read(kind, body)?),
        kind::DIFFERENCE => Frame::Difference(read(kind, body)?),
        kind::FETCH => Frame::Fetch(read(kind, body)?),
        kind::DOCUMENT => Frame::Document(read(kind, body)?),
        kind::REFILTER => Frame::Refilter(read(kind, body)?),
        kind::COMPARED => Frame::Compared(read(kind, body)?),
        kind::RESEND => Frame::Resend(read(kind, body)?),
        kind::RESENT => Frame::Resent(read(kind, body)?),
        kind::REPAIRED => Frame::Repaired(read(kind, body)?),
        kind::TOKEN => Frame::Token(read(kind, body)?),
        _ if flags & FLAG_OPTIONAL != 0 => return Ok(None),
        kind => return Err(FrameError::UnknownKind { kind }),
    };
    check_fields(&frame)?;
    Ok(Some(frame))
}

fn read<T: DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, FrameError> {
    let malformed = |what: String| FrameError::Body { kind, what };
    let (value, used) = bincode::serde::decode_from_slice(body, config())
        .map_err(|error| malformed(error.to_string()))?;
    if used != body.len() {
        return Err(malformed(format!("trailing bytes: {}", body.len() - used)));
    }
    Ok(value)
}

fn check_fields(frame: &Frame) -> Result<(), FrameError> {
    let bound = |field, actual: usize, limit| match actual > limit {
        true => Err(FrameError::Field { field, actual, limit }),
        false => Ok(()),
    };
    let text = |field, text: &String| bound(field, text.len(), limits::TEXT_BYTES);
    match frame {
        Frame::Hello(hello) => {
            text("hello.agent", &hello.agent)?;
            bound("hello.versions", hello.versions.len(), limits::HELLO_VERSIONS)?;
            let token = hello.token.as_ref().map_or(0, |token| token.len());
            bound("hello.token", token, limits::TOKEN_BYTES)
        }
        Frame::Welcome(welcome) => text("welcome.agent", &welcome.agent),
        Frame::Error(error) => {
            text("error.what", &error.what)?;
            text("error.hint", &error.hint)
        }
        Frame::Unsubscribed(ended) => {
            text("unsubscribed.what", &ended.what)?;
            text("unsubscribed.hint", &ended.hint)
        }
        Frame::Push(push) => bound("push.changes", push.changes.len(), limits::PUSH_CHANGES),
        Frame::Entries(frame) => check_entries(&frame.entries, bound),
        Frame::Nack(nack) => text("nack.what", &nack.what),
        Frame::Close(close) => text("close.reason", &close.reason),
        Frame::Subscribe(subscribe) => check_filter(&subscribe.filter, &bound),
        Frame::SubscribeFrom(subscribe) => check_filter(&subscribe.filter, &bound),
        Frame::Refilter(refilter) => check_filter(&refilter.filter, &bound),
        Frame::PushSnapshot(push) => bound("push.heads", push.heads.len(), limits::DOCUMENT_HEADS),
        Frame::Digest(query) => bound("digest.prefixes", query.prefixes.len(), limits::BRANCHES),
        Frame::Difference(found) => {
            bound("difference.branches", found.branches.len(), limits::BRANCHES)
        }
        Frame::Fetch(fetch) => {
            bound("fetch.wants", fetch.wants.len(), limits::FETCH_DOCUMENTS)?;
            let have = fetch.wants.iter().map(|want| want.have.len()).sum();
            bound("fetch.have", have, limits::FETCH_HASHES)
        }
        Frame::Document(found) => check_entries(&found.entries, bound),
        Frame::Ephemeral(message) => {
            let (sender, session) = (message.sender.len(), message.session.len());
            bound("ephemeral.sender", sender, limits::EPHEMERAL_NAME_BYTES)?;
            bound("ephemeral.session", session, limits::EPHEMERAL_NAME_BYTES)?;
            bound("ephemeral.data", message.data.len(), limits::EPHEMERAL_BYTES)
        }
        Frame::Resend(resend) => {
            bound("resend.changes", resend.changes.len(), limits::RESEND_CHANGES)
        }
        Frame::Token(token) => bound("token.token", token.token.len(), limits::TOKEN_BYTES),
        Frame::Subscribed(_)
        | Frame::Unsubscribe(_)
        | Frame::Ack(_)
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Features(_)
        | Frame::Part(_)
        | Frame::UploadFrom(_)
        | Frame::PushEntry(_)
        | Frame::Compared(_)
        | Frame::Resent(_)
        | Frame::Repaired(_) => Ok(()),
    }
}

fn check_filter(
    filter: &super::Filter,
    bound: &impl Fn(&'static str, usize, usize) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    match filter {
        super::Filter::Everything => Ok(()),
        super::Filter::Documents(documents) => {
            bound("filter.documents", documents.len(), limits::FILTER_DOCUMENTS)
        }
    }
}

fn check_entries(
    entries: &[super::Entry],
    bound: impl Fn(&'static str, usize, usize) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    bound("entries.entries", entries.len(), limits::ENTRIES_COUNT)?;
    entries.iter().try_for_each(|entry| {
        bound("entry.author", entry.author.len(), limits::AUTHOR_BYTES)?;
        let limit = match entry.kind {
            super::entry_kind::SNAPSHOT => limits::DOCUMENT_HEADS,
            _ => limits::CHANGE_DEPENDENCIES,
        };
        bound("entry.dependencies", entry.dependencies.len(), limit)
    })
}

/// Truncates a text for a field of at most [`limits::TEXT_BYTES`], at a character boundary.
pub(crate) fn fit(mut text: String) -> String {
    if text.len() > limits::TEXT_BYTES {
        let mut end = limits::TEXT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
