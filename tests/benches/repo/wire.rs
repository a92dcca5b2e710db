//! The part of automerge-repo's messages that a client needs.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// A server's message.
pub enum Said<'a> {
    /// The answer to `join`: the server's name.
    Peer(&'a str),
    /// A sync message about a document.
    Sync { document: &'a str, data: &'a [u8] },
    /// No peer has that document.
    Unavailable(&'a str),
    /// Why the server closes the connection.
    Error(&'a str),
    /// Messages without meaning here.
    Other,
}

/// Decodes a server's message.
pub fn decode(bytes: &[u8]) -> Said<'_> {
    read(bytes).unwrap_or_else(|error| panic!("a server sent an invalid message: {error}"))
}

fn read(bytes: &[u8]) -> Result<Said<'_>, minicbor::decode::Error> {
    let mut decoder = Decoder::new(bytes);
    let (mut kind, mut sender, mut document, mut text) = ("", "", "", "");
    let mut data: &[u8] = &[];
    let mut left = decoder.map()?;
    while left != Some(0) && !(left.is_none() && decoder.datatype()? == Type::Break) {
        left = left.map(|left| left - 1);
        match decoder.str()? {
            "type" => kind = decoder.str()?,
            "senderId" => sender = decoder.str()?,
            "documentId" => document = decoder.str()?,
            "message" => text = decoder.str()?,
            "data" => data = decoder.bytes()?,
            _ => decoder.skip()?,
        }
    }
    Ok(match kind {
        "peer" => Said::Peer(sender),
        "sync" | "request" => Said::Sync { document, data },
        "doc-unavailable" => Said::Unavailable(document),
        "error" => Said::Error(text),
        _ => Said::Other,
    })
}

/// Encodes the first message. A client with its own storage sends a storage id, and the server may keep
/// the sync state for it.
pub fn join(me: &str, storage: Option<&str>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = (|| {
        encoder.map(4)?.str("type")?.str("join")?.str("senderId")?.str(me)?;
        encoder.str("peerMetadata")?.map(1 + u64::from(storage.is_some()))?;
        if let Some(storage) = storage {
            encoder.str("storageId")?.str(storage)?;
        }
        encoder.str("isEphemeral")?.bool(storage.is_none())?;
        encoder.str("supportedProtocolVersions")?.array(1)?.str("1")?.ok()
    })();
    written.unwrap();
    encoder.into_writer()
}

/// Encodes a sync message about a document; `request` if the client has nothing of it.
pub fn sync(kind: &str, document: &str, me: &str, target: &str, data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(data.len() + 192));
    let written = (|| {
        encoder.map(5)?.str("type")?.str(kind)?.str("documentId")?.str(document)?;
        encoder.str("senderId")?.str(me)?.str("targetId")?.str(target)?;
        encoder.str("data")?.bytes(data)?.ok()
    })();
    written.unwrap();
    encoder.into_writer()
}
