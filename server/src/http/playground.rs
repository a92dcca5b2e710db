//! The playground's API: list a space's documents, newest first; notify of growth; delete a document. For
//! relays without authentication, as all are in this version: the list names every document, and any client
//! that reaches the relay can delete documents by WebSocket too.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{Response, StatusCode, Uri};
use axum::routing::{delete, get};
use landfall_protocol::frame::Holding;
use landfall_protocol::relay::{Author, PushedEntry};
use landfall_protocol::{DocumentId, Epoch, Offset, SpaceName};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::query::{DocumentsQuery, documents_query, space_query};
use super::{HttpState, Peer, describe, live, text};
use crate::hub::{Event, HubChannel, Pushed};
use crate::limits;
use crate::memory::Class;
use crate::store::{RecentPage, StoreError};

/// The author of entries written through HTTP.
const AUTHOR: &[u8] = b"playground";

/// The routes.
pub(super) fn routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/playground/documents", get(documents))
        .route("/playground/documents/{document}", delete(delete_document))
        .route("/playground/live", get(live::live))
}

/// Answers `{relay, epoch, head, documents, next}`: documents with the offset of their last entry, newest
/// first; the log's head at the time; and the offset before which the next page ends, or null. An unknown
/// space has no documents.
async fn documents(
    State(http_state): State<Arc<HttpState>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Response<Body> {
    let documents_query = match documents_query(uri.query()) {
        Ok(documents_query) => documents_query,
        Err(what) => return text(StatusCode::BAD_REQUEST, what),
    };
    // Held while the answer is read and encoded.
    let account = http_state.sessions.account(http_state.next_session(), peer.address);
    let _grant =
        account.reserve(Class::Answer, documents_query.limit * limits::LISTED_DOCUMENT_BYTES).await;
    let listed = match listed(&http_state, &peer, documents_query).await {
        Ok(listed) => listed,
        Err(error) => {
            error!(error = error.chain(), "cannot list the documents");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot list the documents");
        }
    };
    let Listed { epoch, head, page } = listed;
    let documents: Vec<_> = page
        .documents
        .iter()
        .map(|recent| {
            let (url, offset) = (recent.document.to_string(), recent.last.0);
            match recent.is_deleted {
                true => json!({ "url": url, "offset": offset, "deleted": true }),
                false => json!({ "url": url, "offset": offset }),
            }
        })
        .collect();
    let body = json!({
        "relay": http_state.sessions.upstream.to_string(),
        "epoch": epoch.map(|epoch| epoch.to_string()),
        "head": head.0,
        "documents": documents,
        "next": page.next.map(|next| next.0),
    });
    let mut response = Response::new(Body::from(body.to_string()));
    describe(response.headers_mut(), "application/json", "no-store");
    response
}

/// A page of a space's list, and the log's head before it was read.
struct Listed {
    epoch: Option<Epoch>,
    head: Offset,
    page: RecentPage,
}

/// Reads the store on a blocking thread, in turn with the sessions' pages.
async fn listed(
    http_state: &HttpState,
    peer: &Peer,
    documents_query: DocumentsQuery,
) -> Result<Listed, StoreError> {
    let turn =
        http_state.sessions.page_reads.take(http_state.sessions.requester(peer.address)).await;
    let store = Arc::clone(&http_state.sessions.store);
    let read = tokio::task::spawn_blocking(move || {
        let DocumentsQuery { space, since, before, limit } = documents_query;
        // The head before the page: entries in between are then listed twice, and not missed.
        let lineage = store.open_space(&space)?;
        let page = store.recent_documents(&space, since, before, limit)?;
        drop(turn);
        Ok(Listed { epoch: lineage.epoch(), head: lineage.head(), page })
    });
    read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))
}

/// Whether a space has, or had, a document: a mistyped name must not create a space with a tombstone.
async fn is_known(
    http_state: &HttpState,
    peer: &Peer,
    space: SpaceName,
    document: DocumentId,
) -> Result<bool, StoreError> {
    let turn =
        http_state.sessions.page_reads.take(http_state.sessions.requester(peer.address)).await;
    let store = Arc::clone(&http_state.sessions.store);
    let read = tokio::task::spawn_blocking(move || {
        let plan = store.plan_document(&space, &document, &[])?;
        drop(turn);
        Ok(!matches!(plan.holding, Holding::Absent))
    });
    read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))
}

/// Deletes a document permanently: 204 once the deletion is on disk, also if it was deleted before; 404 if
/// the document does not exist.
async fn delete_document(
    State(http_state): State<Arc<HttpState>>,
    Extension(peer): Extension<Peer>,
    Path(document): Path<String>,
    uri: Uri,
) -> Response<Body> {
    let document = match document.parse::<DocumentId>() {
        Ok(document) => document,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let space = match space_query(uri.query()) {
        Ok(space) => space,
        Err(what) => return text(StatusCode::BAD_REQUEST, what),
    };
    match is_known(&http_state, &peer, space.clone(), document).await {
        Ok(true) => {}
        Ok(false) => {
            let what = format!("the space {space} has no document {document}; nothing was deleted");
            return text(StatusCode::NOT_FOUND, what);
        }
        Err(error) => {
            error!(error = error.chain(), "cannot look up a document to delete");
            return text(StatusCode::INTERNAL_SERVER_ERROR, error.for_client().1);
        }
    }
    let session = http_state.next_session();
    let account = http_state.sessions.account(session, peer.address);
    let grant = account.reserve(Class::Push, limits::PUSH_OVERHEAD_BYTES).await;
    let (events, mut answers) = mpsc::channel(1);
    let mailbox = HubChannel { events, overflow: Arc::default(), grown: Arc::default() };
    let hub = &http_state.sessions.hub;
    let _registration = live::HubRegistration { hub: hub.clone(), session };
    hub.join(account.key(), session, space.clone(), mailbox).await;
    let entry = PushedEntry { session, id: 1, document, author: Author::of_all(AUTHOR.to_vec()) };
    hub.push(space.clone(), Pushed::Deletion(entry), grant).await;
    let Some(Event::Answered(answer)) = answers.recv().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the relay is being stopped");
    };
    match answer.refusal {
        None => {
            info!(%space, %document, peer = %peer.address, "a document was deleted over HTTP");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Some(refusal) => {
            let what = format!("the document was not deleted ({}): {}", refusal.code, refusal.what);
            text(StatusCode::SERVICE_UNAVAILABLE, what)
        }
    }
}
