//! Long histories: a first load from a restarted server, and two clients that return with many changes.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use automerge::{ActorId, AutoCommit, ChangeHash, ROOT, ReadDoc};
use tokio::runtime::Builder;

use super::link::Link;
use super::processes::Peak;
use super::replica::{self, Replica};
use super::server::{Kind, Server, rest};
use super::table::Metric;
use super::world::{fresh_id, type_on, typed};

/// A new client loads a document of so many changes from a server that just started.
pub fn first_load(kind: Kind, changes: usize, times: u32) -> Result<Vec<Metric>, String> {
    static LONG: OnceLock<AutoCommit> = OnceLock::new();
    let mut doc = LONG.get_or_init(|| typed(1, changes)).clone();
    let heads = doc.get_heads();
    let mut server = Server::start(kind)?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let document = fresh_id();
    let began = Instant::now();
    runtime.block_on(replica::upload(server.port, &document, &doc))?;
    let uploaded = began.elapsed();
    server.settle();
    let cost = server.processor_time();
    let (mut took, mut processor, mut most) = (Duration::ZERO, Duration::ZERO, 0.0_f64);
    for _ in 0..times {
        server.stop();
        server.start_again()?;
        rest(Duration::from_millis(700));
        let (peak, before) = (Peak::watch(server.pid()), server.processor_time());
        took += runtime.block_on(load(&server, &document, &heads))?;
        rest(Duration::from_millis(300));
        processor += server.processor_time() - before;
        most = most.max(peak.mib());
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let name = format!("{changes} changes");
    Ok(vec![
        Metric::lower(format!("{name}: uploaded whole, to the ack"), "ms", ms(uploaded)),
        Metric::lower(format!("{name}: uploaded whole, server CPU"), "ms", ms(cost)),
        Metric::lower(
            format!("{name}: first load, cold, to the last frame"),
            "ms",
            ms(took / times),
        ),
        Metric::lower(format!("{name}: first load, cold, server CPU"), "ms", ms(processor / times)),
        Metric::lower(
            format!("{name}: first load, cold, memory above empty, peak"),
            "MiB",
            server.above_empty(most),
        ),
    ])
}

/// Time from the request to the last frame, without the client's processing.
async fn load(server: &Server, document: &str, heads: &[ChangeHash]) -> Result<Duration, String> {
    let mut link = Link::join(server.port, "newcomer", None).await?;
    let mut replica = Replica::empty(document);
    let began = Instant::now();
    replica.sync(&mut link, |replica| replica.doc.get_heads() == heads).await?;
    link.close().await;
    Ok(replica.heard.map_or(Duration::ZERO, |heard| heard - began))
}

/// Two clients that share a document return at the same time, each with so many changes.
pub fn returning(kind: Kind, changes: usize) -> Result<Vec<Metric>, String> {
    let mut base = typed(2, 1_000);
    let shared = base.get_heads();
    let server = Server::start(kind)?;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let document = fresh_id();
    runtime.block_on(replica::upload(server.port, &document, &base))?;
    server.settle();
    let mut docs = [3, 4].map(|seed| {
        let mut doc = base.fork().with_actor(ActorId::from([seed; 16]));
        let text = doc.get(ROOT, "text").unwrap().unwrap().1;
        type_on(&mut doc, &text, changes);
        doc
    });
    let mut heads: Vec<ChangeHash> = docs.iter_mut().flat_map(AutoCommit::get_heads).collect();
    heads.sort();
    let (peak, before) = (Peak::watch(server.pid()), server.processor_time());
    let began = Instant::now();
    let clients: Vec<_> = docs
        .into_iter()
        .enumerate()
        .map(|(at, doc)| {
            let replica = Replica::returning(&document, doc, shared.clone());
            let (port, heads) = (server.port, heads.clone());
            std::thread::spawn(move || come_back(port, at, replica, &heads))
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    let took = began.elapsed();
    let peak = peak.mib();
    server.settle();
    let processor = server.processor_time() - before;
    runtime.block_on(replica::check(server.port, &document, &heads))?;
    let name = format!("two return with {changes} changes each");
    Ok(vec![
        Metric::lower(format!("{name}: until both have all"), "s", took.as_secs_f64()),
        Metric::lower(format!("{name}: server CPU"), "s", processor.as_secs_f64()),
        Metric::lower(format!("{name}: memory above empty, peak"), "MiB", server.above_empty(peak)),
    ])
}

fn come_back(
    port: u16,
    at: usize,
    mut replica: Replica,
    heads: &[ChangeHash],
) -> Result<(), String> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut link = Link::join(port, &format!("returning-{at}"), Some(&storage(at))).await?;
        let all =
            |replica: &mut Replica| replica.doc.get_heads() == heads && replica.is_acknowledged();
        replica.sync(&mut link, all).await?;
        link.close().await;
        Ok(())
    })
}

/// A storage id: any UUID.
fn storage(at: usize) -> String {
    format!("3d6c14c8-0f4f-4a52-9d60-5a1b7a0e{at:04x}")
}
