//! The worth of an acknowledgement: kills servers when they acknowledge, and counts their fsyncs.

use std::time::{Duration, Instant};

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ChangeHash, ROOT};
use tokio::runtime::Builder;

use super::link::Link;
use super::replica::{self, Replica};
use super::server::{Kind, Server, rest};
use super::table::Metric;
use super::world::{fresh_id, typed};

const EDITS: usize = 5;

/// Kills the server at the moment when its message acknowledges a change, so many times, and counts
/// acknowledged changes that it lost.
pub fn kills(kind: Kind, times: usize) -> Result<Vec<Metric>, String> {
    let mut server = Server::start(kind)?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut writer = Replica::new(&fresh_id(), typed(5, 200));
    runtime.block_on(replica::upload(server.port, &writer.document, &writer.doc))?;
    server.settle();
    let (mut lost, mut acknowledged) = (0, 0);
    for round in 0..times {
        let acked = runtime.block_on(edit_until_killed(&mut server, &mut writer, round));
        let acked = acked.map_err(|why| format!("round {round}: {why}: {}", server.log()))?;
        acknowledged += acked.len();
        server.start_again()?;
        let missing = runtime.block_on(missing(&server, &writer.document, &acked));
        lost += missing.map_err(|why| format!("after {round}: {why}: {}", server.log()))?;
    }
    let name = format!("acknowledged changes lost over {times} SIGKILLs at the ack");
    let name = format!("{name}, of {acknowledged}");
    Ok(vec![Metric::lower(name, "changes", lost as f64)])
}

/// Makes some edits, each acknowledged before the next, and kills the server at the last
/// acknowledgement. Returns the acknowledged changes.
async fn edit_until_killed(
    server: &mut Server,
    writer: &mut Replica,
    round: usize,
) -> Result<Vec<ChangeHash>, String> {
    let mut link = Link::join(server.port, "writer", None).await?;
    writer.reconnect();
    // Uploads again what the previous round lost; this round does not count it.
    writer.sync(&mut link, Replica::is_acknowledged).await?;
    let mut acked = Vec::new();
    for edit in 0..EDITS {
        writer.doc.put(ROOT, "edit", format!("{round}.{edit}")).unwrap();
        writer.doc.commit();
        writer.sync(&mut link, Replica::is_acknowledged).await?;
        if edit + 1 == EDITS {
            server.kill();
        }
        acked.extend(writer.doc.get_heads());
    }
    Ok(acked)
}

/// The number of acknowledged changes that a restarted server does not send to a new client.
async fn missing(server: &Server, document: &str, acked: &[ChangeHash]) -> Result<usize, String> {
    let mut link = Link::join(server.port, "reader", None).await?;
    let mut reader = Replica::empty(document);
    // Until both ends have reported the same heads.
    let fetched = reader.sync(&mut link, Replica::is_acknowledged).await;
    link.close().await;
    match fetched {
        Ok(()) => {
            let has =
                |hash: &ChangeHash, doc: &mut AutoCommit| doc.get_change_by_hash(hash).is_some();
            Ok(acked.iter().filter(|hash| !has(hash, &mut reader.doc)).count())
        }
        Err(why) if why.contains("unavailable") => Ok(acked.len()),
        Err(why) => Err(why),
    }
}

/// Counts the system calls that force data to the disk while one writer makes so many edits, each
/// acknowledged before the next.
pub fn fsyncs(kind: Kind, edits: usize) -> Result<Vec<Metric>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let trace = folder.path().join("trace");
    let server = Server::start_traced(kind, Some(&trace))?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut writer = Replica::new(&fresh_id(), typed(6, 200));
    runtime.block_on(replica::upload(server.port, &writer.document, &writer.doc))?;
    server.settle();
    let calls = || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync(")).count()
    };
    let before = calls();
    let began = Instant::now();
    runtime.block_on(async {
        let mut link = Link::join(server.port, "writer", None).await?;
        writer.sync(&mut link, Replica::is_acknowledged).await?;
        for edit in 0..edits {
            writer.doc.put(ROOT, "edit", edit as u64).unwrap();
            writer.doc.commit();
            writer.sync(&mut link, Replica::is_acknowledged).await?;
        }
        link.close().await;
        Ok::<_, String>(())
    })?;
    eprintln!("   ({edits} edits in {:?}, under strace)", began.elapsed());
    rest(Duration::from_secs(1));
    let name = format!("fsyncs for {edits} edits, each acknowledged before the next");
    Ok(vec![Metric::higher(name, "calls", (calls() - before) as f64)])
}
