//! Large numbers: documents on one connection, and idle connections.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ChangeHash, ROOT};
use tokio::runtime::Builder;

use super::link::Link;
use super::processes::folder_disk_bytes;
use super::replica::{self, Replica};
use super::server::{Kind, Server, rest};
use super::table::Metric;
use super::wire::{self, Said};
use super::world::fresh_id;

const STORAGE: &str = "9a0f3c52-6d39-4a35-b87e-6f6f0c6c0001";

/// One client creates so many documents, returns unchanged, and returns to a restarted server.
pub fn documents(kind: Kind, count: usize) -> Result<Vec<Metric>, String> {
    let mut server = Server::start(kind)?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut replicas: Vec<Replica> = (0..count).map(small).collect();
    let name = format!("{count} documents");
    let mut metrics = Vec::new();
    for visit in ["created", "unchanged return, warm", "unchanged return, after a restart"] {
        if visit.ends_with("restart") {
            server.stop();
            server.start_again()?;
            rest(Duration::from_millis(700));
        }
        replicas.iter_mut().for_each(Replica::reconnect);
        let before = server.processor_time();
        let began = Instant::now();
        let visited = runtime.block_on(visit_all(server.port, visit, &mut replicas));
        visited.map_err(|why| format!("{visit}: {why}"))?;
        let took = began.elapsed();
        server.settle();
        let processor = server.processor_time() - before;
        let above = server.above_empty(server.resident_mib());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        metrics.extend([
            Metric::lower(format!("{name}: {visit}"), "ms", ms(took)),
            Metric::lower(format!("{name}: {visit}, server CPU"), "ms", ms(processor)),
            Metric::lower(format!("{name}: {visit}, memory above empty"), "MiB", above),
        ]);
    }
    let disk = folder_disk_bytes(&server.data()) as f64 / (1 << 20) as f64;
    metrics.push(Metric::lower(format!("{name}: disk"), "MiB", disk));
    for replica in replicas.iter_mut().step_by((count / 10).max(1)) {
        let heads = replica.doc.get_heads();
        runtime.block_on(replica::check(server.port, &replica.document, &heads))?;
    }
    Ok(metrics)
}

/// A document of five changes.
fn small(number: usize) -> Replica {
    let mut doc = AutoCommit::new();
    for edit in 0..5 {
        doc.put(ROOT, format!("field {edit}"), format!("value {edit} of document {number}"))
            .unwrap();
        doc.commit();
    }
    Replica::new(&fresh_id(), doc)
}

/// Connects and announces all documents at once, as automerge-repo does, until the server has confirmed
/// each of them. Each visit uses a new peer id, as a reloaded page does: automerge-repo sends nothing
/// about unchanged documents to a peer that it remembers.
async fn visit_all(port: u16, me: &str, replicas: &mut [Replica]) -> Result<(), String> {
    let link = Link::join(port, me, Some(STORAGE)).await?;
    let (mut inbox, sender) = link.split();
    let places = replicas.iter().enumerate().map(|(at, r)| (r.document.clone(), at));
    let places: HashMap<String, usize> = places.collect();
    for replica in replicas.iter_mut() {
        let (kind, data) = replica.generate().ok_or("nothing to announce")?;
        let _ = sender.send(inbox.sync(kind, &replica.document, &data));
    }
    let mut left: HashMap<usize, Vec<ChangeHash>> =
        replicas.iter_mut().map(|replica| replica.doc.get_heads()).enumerate().collect();
    while !left.is_empty() {
        let bytes = inbox.next().await?;
        let Said::Sync { document, data } = wire::decode(&bytes) else { continue };
        let &at = places.get(document).ok_or("a document that no peer announced")?;
        let replica = &mut replicas[at];
        replica.receive(data)?;
        if let Some((kind, data)) = replica.generate() {
            let _ = sender.send(inbox.sync(kind, &replica.document, &data));
        }
        if replica.is_acknowledged() {
            left.remove(&at);
        }
    }
    Ok(())
}

/// So many connections join and stay silent.
pub fn idle(kind: Kind, count: usize, measured: Duration) -> Result<Vec<Metric>, String> {
    let server = Server::start(kind)?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..count {
            let mut link = Link::join(server.port, &format!("idle-{number}"), None).await?;
            // Reads, so that pings are answered.
            clients.spawn(async move {
                loop {
                    if let Err(why) = link.next_at_any_time().await {
                        return why;
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = server.processor_time();
        tokio::time::sleep(measured).await;
        let processor = (server.processor_time() - before).as_secs_f64();
        let above = server.above_empty(server.resident_mib());
        if let Some(ended) = clients.try_join_next() {
            return Err(format!("a connection ended: {ended:?}"));
        }
        let name = format!("{count} idle connections");
        let share = processor / measured.as_secs_f64() * 1e3;
        Ok(vec![
            Metric::lower(format!("{name}: memory above empty"), "MiB", above),
            Metric::lower(format!("{name}: server CPU a second"), "ms", share),
        ])
    })
}
