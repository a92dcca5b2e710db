//! Data that waits in the relay for peers that do not read, and the state of their remote heads
//! subscriptions.

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{AutoCommit, ROOT};
use landfall_protocol::automerge_repo::message::Message as Repo;
use landfall_protocol::frame::{Frame, Push};
use landfall_protocol::limits;
use landfall_test_rng::Rng;

use crate::arena::attack;
use crate::attacker::{acknowledged, deaf_repo, numbered, patient, reader, repo, say};

/// Each peer has a document of its own open, and another client pushes to all of them.
#[test]
fn entries_queued_for_automerge_repo_peers_that_do_not_read() {
    attack("60 automerge-repo peers that do not read 7 MiB of entries each", |attack| {
        let document = |number| numbered(0xd1, number);
        let peers: Vec<_> = (0..60)
            .map(|number| deaf_repo(attack.port, &format!("deaf {number}"), document(number)))
            .collect();
        let mut author = reader(attack.port, "default");
        patient(&author);
        let mut id = 0;
        let (mut rng, mut doc) = (Rng::new(9), AutoCommit::new());
        for _ in 0..7 {
            let noise: Vec<u8> = (0..1_000_000).map(|_| rng.next_u64() as u8).collect();
            doc.put(ROOT, "noise", noise).expect("bytes");
            doc.commit();
            let change =
                doc.get_last_local_change().expect("the change was just made").raw_bytes().to_vec();
            for number in 0..60 {
                id += 1;
                let (document, changes) = (document(number), vec![change.clone().into()]);
                let push = Push { id, subscription: 1, document, changes };
                assert!(say(&mut author, &[Frame::Push(push)]));
                acknowledged(&mut author, 1);
            }
        }
        attack.hold();
        drop(peers);
    });
}

#[test]
fn remote_heads_subscriptions_to_very_many_storages() {
    attack("300 automerge-repo peers that subscribe to 1,024 storages each", |attack| {
        let mut peers = Vec::new();
        for number in 0..300 {
            let mut peer = repo(attack.port, &format!("curious {number}"));
            patient(&peer.socket);
            let name = |storage: usize| format!("{number:0>250}{storage:0>250}");
            let names: Vec<String> = (0..limits::REPO_LIST).map(name).collect();
            let (sender, target) = peer.ends();
            let (add, remove) = (names.iter().map(String::as_str).collect(), Vec::new());
            let wish = Repo::RemoteSubscription { sender: &sender, target: &target, add, remove };
            peer.tell(&wish);
            peers.push(peer);
        }
        attack.hold();
    });
}

/// A peer replaces its remote heads subscriptions again and again.
#[test]
fn repeatedly_replaced_remote_heads_subscriptions() {
    attack("remote heads subscriptions that a peer replaces repeatedly", |attack| {
        let mut peer = repo(attack.port, "fickle");
        patient(&peer.socket);
        let (sender, target) = peer.ends();
        for round in 0..600 {
            let name = |storage: usize| format!("{round:0>250}{storage:0>250}");
            let names: Vec<String> = (0..limits::REPO_LIST).map(name).collect();
            let names = || names.iter().map(String::as_str).collect();
            for (add, remove) in [(names(), vec![]), (vec![], names())] {
                let (sender, target) = (&*sender, &*target);
                peer.tell(&Repo::RemoteSubscription { sender, target, add, remove });
            }
        }
        attack.hold();
    });
}
