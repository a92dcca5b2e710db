//! Decodes a message. Knows no session.

use minicbor::Decoder;
use minicbor::data::Type;
use minicbor::decode::Error;

use super::{Ephemeral, Message, MessageError, PeerMetadata, RemoteHeads, Sync};
use crate::limits;

impl<'a> Message<'a> {
    /// Reads a message. The work is linear in the number of bytes, whatever they are.
    ///
    /// # Errors
    /// If it is not a message of the protocol, or exceeds a limit.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Decoder::new(bytes);
        let mut fields = Fields::default();
        each_pair(&mut reader, &mut |reader, key| {
            let at = reader.position();
            if let Err(error) = fields.read(reader, key) {
                // If the type turns out to be unknown, the field may be of any form.
                fields.bad.get_or_insert(error);
                reader.set_position(at);
                reader.skip()?;
            }
            Ok(())
        })?;
        if reader.position() != bytes.len() {
            return Err(malformed("trailing bytes after the message"));
        }
        fields.message()
    }
}

/// The known types.
const KINDS: [&str; 10] = [
    "join",
    "peer",
    "error",
    "leave",
    "request",
    "sync",
    "doc-unavailable",
    "ephemeral",
    "remote-subscription-change",
    "remote-heads-changed",
];

/// The fields of all types of messages, as far as they were present.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    sender: Option<&'a str>,
    target: Option<&'a str>,
    document: Option<&'a str>,
    session: Option<&'a str>,
    version: Option<&'a str>,
    message: Option<&'a str>,
    count: Option<u64>,
    data: Option<&'a [u8]>,
    metadata: PeerMetadata<'a>,
    versions: Option<Vec<&'a str>>,
    add: Vec<&'a str>,
    remove: Vec<&'a str>,
    heads: Option<Vec<RemoteHeads<'a>>>,
    /// The first invalid field.
    bad: Option<MessageError>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, reader: &mut Decoder<'a>, key: &str) -> Result<(), MessageError> {
        match key {
            "type" => self.kind = text(reader, "type")?,
            "senderId" => self.sender = text(reader, "senderId")?,
            "targetId" => self.target = text(reader, "targetId")?,
            "documentId" => self.document = text(reader, "documentId")?,
            "sessionId" => self.session = text(reader, "sessionId")?,
            "selectedProtocolVersion" => self.version = text(reader, "selectedProtocolVersion")?,
            "message" => self.message = text(reader, "message")?,
            "count" => self.count = count(reader)?,
            "data" => self.data = present(reader)?.then(|| reader.bytes()).transpose()?,
            "peerMetadata" => self.metadata = metadata(reader)?,
            "supportedProtocolVersions" => self.versions = texts(reader, "versions")?,
            "add" => self.add = texts(reader, "add")?.unwrap_or_default(),
            "remove" => self.remove = texts(reader, "remove")?.unwrap_or_default(),
            "newHeads" => self.heads = heads(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn message(self) -> Result<Message<'a>, MessageError> {
        let kind = match (self.kind, self.bad) {
            (None, bad) => return Err(bad.unwrap_or_else(|| malformed("no `type`"))),
            (Some(kind), Some(bad)) if KINDS.contains(&kind) => return Err(bad),
            (Some(kind), _) => kind,
        };
        let missing = |field| MessageError::Missing { kind: kind.to_owned(), field };
        let sender = || self.sender.ok_or_else(|| missing("senderId"));
        let target = || self.target.ok_or_else(|| missing("targetId"));
        let document = || self.document.ok_or_else(|| missing("documentId"));
        let data = || self.data.ok_or_else(|| missing("data"));
        let sync = || {
            let (document, sender, target) = (document()?, sender()?, target()?);
            Ok::<_, MessageError>(Sync { document, sender, target, data: data()? })
        };
        Ok(match kind {
            "join" => Message::Join {
                sender: sender()?,
                metadata: self.metadata,
                versions: self.versions,
            },
            "peer" => Message::Peer {
                sender: sender()?,
                target: target()?,
                metadata: self.metadata,
                version: self.version.unwrap_or(super::VERSION),
            },
            "error" => Message::Error {
                message: self.message.ok_or_else(|| missing("message"))?,
                sender: self.sender.unwrap_or_default(),
                target: self.target.unwrap_or_default(),
            },
            "leave" => Message::Leave { sender: sender()? },
            "request" => Message::Request(sync()?),
            "sync" => Message::Sync(sync()?),
            "doc-unavailable" => {
                Message::Unavailable { document: document()?, sender: sender()?, target: target()? }
            }
            "ephemeral" => Message::Ephemeral(Ephemeral {
                document: document()?,
                sender: sender()?,
                target: target()?,
                session: self.session.ok_or_else(|| missing("sessionId"))?,
                count: self.count.ok_or_else(|| missing("count"))?,
                data: data()?,
            }),
            "remote-subscription-change" => Message::RemoteSubscription {
                sender: sender()?,
                target: target()?,
                add: self.add,
                remove: self.remove,
            },
            "remote-heads-changed" => Message::RemoteHeads {
                sender: sender()?,
                target: target()?,
                document: document()?,
                heads: self.heads.ok_or_else(|| missing("newHeads"))?,
            },
            kind => Message::Unknown { kind },
        })
    }
}

/// Reads a map whose keys are texts.
fn each_pair<'a>(
    reader: &mut Decoder<'a>,
    read: &mut dyn FnMut(&mut Decoder<'a>, &'a str) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let mut left = reader.map()?;
    loop {
        match &mut left {
            Some(0) => return Ok(()),
            Some(left) => *left -= 1,
            None if reader.datatype()? == Type::Break => return Ok(reader.skip()?),
            None => {}
        }
        let key = reader.str()?;
        read(reader, key)?;
    }
}

/// Whether a value follows; consumes `undefined` and `null`.
fn present(reader: &mut Decoder<'_>) -> Result<bool, MessageError> {
    match reader.datatype()? {
        Type::Null | Type::Undefined => reader.skip().map(|()| false).map_err(Into::into),
        _ => Ok(true),
    }
}

fn text<'a>(
    reader: &mut Decoder<'a>,
    field: &'static str,
) -> Result<Option<&'a str>, MessageError> {
    if !present(reader)? {
        return Ok(None);
    }
    let text = reader.str()?;
    let limit = limits::REPO_TEXT_BYTES;
    if text.len() > limit {
        return Err(MessageError::TooLong { field, limit });
    }
    Ok(Some(text))
}

fn texts<'a>(
    reader: &mut Decoder<'a>,
    field: &'static str,
) -> Result<Option<Vec<&'a str>>, MessageError> {
    let limit = limits::REPO_LIST;
    match texts_up_to(reader, field, limit)? {
        Some((_, true)) => Err(MessageError::TooLong { field, limit }),
        texts => Ok(texts.map(|(texts, _)| texts)),
    }
}

/// The first texts of a list, and whether it has more, which are skipped.
fn texts_up_to<'a>(
    reader: &mut Decoder<'a>,
    field: &'static str,
    limit: usize,
) -> Result<Option<(Vec<&'a str>, bool)>, MessageError> {
    if !present(reader)? {
        return Ok(None);
    }
    let mut left = reader.array()?;
    let (mut texts, mut more) = (Vec::new(), false);
    loop {
        match &mut left {
            Some(0) => return Ok(Some((texts, more))),
            Some(left) => *left -= 1,
            None if reader.datatype()? == Type::Break => {
                reader.skip()?;
                return Ok(Some((texts, more)));
            }
            None => {}
        }
        let next = text(reader, field)?;
        more |= texts.len() == limit && next.is_some();
        texts.extend(next.filter(|_| !more));
    }
}

fn metadata<'a>(reader: &mut Decoder<'a>) -> Result<PeerMetadata<'a>, MessageError> {
    let mut metadata = PeerMetadata::default();
    if !present(reader)? {
        return Ok(metadata);
    }
    each_pair(reader, &mut |reader, key| {
        match key {
            "storageId" => metadata.storage_id = text(reader, "storageId")?,
            "isEphemeral" => {
                metadata.is_ephemeral = present(reader)? && reader.bool()?;
            }
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(metadata)
}

fn heads<'a>(reader: &mut Decoder<'a>) -> Result<Option<Vec<RemoteHeads<'a>>>, MessageError> {
    if !present(reader)? {
        return Ok(None);
    }
    let mut found = Vec::new();
    each_pair(reader, &mut |reader, storage_id| {
        let (field, limit) = ("newHeads", limits::REPO_LIST);
        if found.len() == limit || storage_id.len() > limits::REPO_TEXT_BYTES {
            return Err(MessageError::TooLong { field, limit });
        }
        let mut remote = RemoteHeads { storage_id, heads: Vec::new(), timestamp_ms: 0.0 };
        let mut is_whole = true;
        each_pair(reader, &mut |reader, key| {
            match key {
                "heads" => {
                    // A document may have more heads than are forwarded; its client has others.
                    let heads = texts_up_to(reader, "heads", limits::REPO_LIST)?;
                    let (heads, more) = heads.unwrap_or_default();
                    (remote.heads, is_whole) = (heads, !more);
                }
                "timestamp" => {
                    let number = number(reader)?.filter(|number| number.is_finite());
                    remote.timestamp_ms = number.unwrap_or_default();
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        found.extend(is_whole.then_some(remote));
        Ok(())
    })?;
    Ok(Some(found))
}

/// A number in any encoding.
fn number(reader: &mut Decoder<'_>) -> Result<Option<f64>, MessageError> {
    if !present(reader)? {
        return Ok(None);
    }
    let number = match reader.datatype()? {
        Type::F16 | Type::F32 | Type::F64 => reader.f64()?,
        // Numbers beyond 2⁵³ are inexact in the clients that write them too.
        _ => i128::from(reader.int()?) as f64,
    };
    Ok(Some(number))
}

fn count(reader: &mut Decoder<'_>) -> Result<Option<u64>, MessageError> {
    let Some(number) = number(reader)? else { return Ok(None) };
    // A cast from a float saturates; a negative count or NaN becomes 0.
    Ok(Some(number as u64))
}

fn malformed(what: &str) -> MessageError {
    MessageError::Malformed { what: what.to_owned() }
}

impl From<Error> for MessageError {
    fn from(error: Error) -> Self {
        Self::Malformed { what: error.to_string() }
    }
}
