//! Encodes a message. Knows no session.

use minicbor::Encoder;
use minicbor::encode::Error;

use super::{Ephemeral, Message, PeerMetadata, RemoteHeads, Sync};

type Out = Encoder<Vec<u8>>;
/// Writing into memory does not fail.
type Written = Result<(), Error<std::convert::Infallible>>;

impl Message<'_> {
    /// The message's bytes. [`Message::Unknown`] cannot be written and has none.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new(Vec::with_capacity(self.room()));
        // The only possible error comes from types that fail to encode themselves.
        let _ = self.write(&mut out);
        out.into_writer()
    }

    fn room(&self) -> usize {
        const FIELDS: usize = 256;
        match self {
            Self::Sync(sync) | Self::Request(sync) => FIELDS + sync.data.len(),
            Self::Ephemeral(ephemeral) => FIELDS + ephemeral.data.len(),
            _ => FIELDS,
        }
    }

    fn write(&self, out: &mut Out) -> Written {
        match self {
            Self::Join { sender, metadata, versions } => {
                begin(out, 3 + u64::from(versions.is_some()), "join")?;
                pair(out, "senderId", sender)?;
                write_metadata(out, metadata)?;
                match versions {
                    Some(versions) => list(out, "supportedProtocolVersions", versions),
                    None => Ok(()),
                }
            }
            Self::Peer { sender, target, metadata, version } => {
                begin(out, 5, "peer")?;
                pair(out, "senderId", sender)?;
                write_metadata(out, metadata)?;
                pair(out, "selectedProtocolVersion", version)?;
                pair(out, "targetId", target)
            }
            Self::Error { message, sender, target } => {
                begin(out, 4, "error")?;
                pair(out, "senderId", sender)?;
                pair(out, "message", message)?;
                pair(out, "targetId", target)
            }
            Self::Leave { sender } => {
                begin(out, 2, "leave")?;
                pair(out, "senderId", sender)
            }
            Self::Request(sync) => write_sync(out, "request", sync),
            Self::Sync(sync) => write_sync(out, "sync", sync),
            Self::Unavailable { document, sender, target } => {
                begin(out, 4, "doc-unavailable")?;
                pair(out, "documentId", document)?;
                pair(out, "targetId", target)?;
                pair(out, "senderId", sender)
            }
            Self::Ephemeral(ephemeral) => write_ephemeral(out, ephemeral),
            Self::RemoteSubscription { sender, target, add, remove } => {
                begin(out, 5, "remote-subscription-change")?;
                pair(out, "targetId", target)?;
                list(out, "add", add)?;
                list(out, "remove", remove)?;
                pair(out, "senderId", sender)
            }
            Self::RemoteHeads { sender, target, document, heads } => {
                begin(out, 5, "remote-heads-changed")?;
                pair(out, "targetId", target)?;
                pair(out, "documentId", document)?;
                write_heads(out, heads)?;
                pair(out, "senderId", sender)
            }
            Self::Unknown { .. } => Ok(()),
        }
    }
}

fn begin(out: &mut Out, fields: u64, kind: &str) -> Written {
    out.map(fields)?;
    pair(out, "type", kind)
}

fn pair(out: &mut Out, key: &str, value: &str) -> Written {
    out.str(key)?.str(value)?.ok()
}

fn list(out: &mut Out, key: &str, values: &[&str]) -> Written {
    out.str(key)?.array(values.len() as u64)?;
    values.iter().try_for_each(|value| out.str(value)?.ok())
}

fn write_metadata(out: &mut Out, metadata: &PeerMetadata<'_>) -> Written {
    out.str("peerMetadata")?.map(1 + u64::from(metadata.storage_id.is_some()))?;
    if let Some(storage_id) = metadata.storage_id {
        pair(out, "storageId", storage_id)?;
    }
    out.str("isEphemeral")?.bool(metadata.is_ephemeral)?.ok()
}

fn write_sync(out: &mut Out, kind: &str, sync: &Sync<'_>) -> Written {
    begin(out, 5, kind)?;
    pair(out, "targetId", sync.target)?;
    out.str("data")?.bytes(sync.data)?;
    pair(out, "documentId", sync.document)?;
    pair(out, "senderId", sync.sender)
}

fn write_ephemeral(out: &mut Out, ephemeral: &Ephemeral<'_>) -> Written {
    begin(out, 7, "ephemeral")?;
    pair(out, "targetId", ephemeral.target)?;
    pair(out, "documentId", ephemeral.document)?;
    out.str("data")?.bytes(ephemeral.data)?;
    out.str("count")?.u64(ephemeral.count)?;
    pair(out, "sessionId", ephemeral.session)?;
    pair(out, "senderId", ephemeral.sender)
}

fn write_heads(out: &mut Out, heads: &[RemoteHeads<'_>]) -> Written {
    out.str("newHeads")?.map(heads.len() as u64)?;
    for remote in heads {
        out.str(remote.storage_id)?.map(2)?;
        list(out, "heads", &remote.heads)?;
        out.str("timestamp")?.f64(remote.timestamp_ms)?;
    }
    Ok(())
}
