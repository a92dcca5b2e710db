//! Very many sessions: idle ones, ones that leave at once, and ones that all receive one ephemeral
//! sender's messages.

use std::net::Ipv4Addr;

use landfall_protocol::DocumentId;
use landfall_protocol::frame::{Ephemeral, Filter, Frame};
use landfall_relay::limits;
use tokio_tungstenite::tungstenite::client;

use crate::arena::attack;
use crate::attacker::{connect_from, drain, native, reader, repo, say, subscribe};

#[test]
fn one_address_that_exhausts_the_connection_limit() {
    attack("4,092 idle connections of one address", |attack| {
        let (port, url) = (attack.port, format!("ws://127.0.0.1:{}/", attack.port));
        let other = Ipv4Addr::new(127, 0, 0, 2);
        let sessions: Vec<_> =
            (0..4_092).filter_map(|_| client(&url, connect_from(other, port).ok()?).ok()).collect();
        assert_eq!(sessions.len(), limits::CONNECTIONS_OF_ADDRESS);
        attack.hold();
    });
}

#[test]
fn sessions_that_all_disconnect_at_once() {
    attack("100 sessions with 100 spaces each that disconnect at once", |attack| {
        let spaces: Vec<Frame> = (1..=100)
            .map(|number| subscribe(number, &format!("left-{number}"), Filter::Everything))
            .collect();
        while attack.goes_on() {
            let mut sessions: Vec<_> = (0..50).map(|_| native(attack.port)).collect();
            sessions.iter_mut().for_each(|session| {
                say(session, &spaces);
            });
            let peers = (0..50).map(|number| repo(attack.port, &format!("left {number}")).socket);
            sessions.extend(peers);
            drop(sessions);
        }
    });
}

#[test]
fn ephemeral_messages_to_a_hundred_sessions() {
    attack("ephemeral messages to 100 listeners", |attack| {
        let mut listeners: Vec<_> = (0..100).map(|_| reader(attack.port, "heard")).collect();
        let mut speaker = reader(attack.port, "heard");
        let document = DocumentId::from_bytes([0xe4; 16]);
        let ephemeral = |count| {
            let (sender, session) = ("bob".to_owned(), "1".to_owned());
            let (subscription, data) = (1, vec![7; 100].into());
            Frame::Ephemeral(Ephemeral { subscription, document, sender, session, count, data })
        };
        let mut count = 0;
        while attack.goes_on() {
            let many: Vec<Frame> = (1..=1_000).map(|number| ephemeral(count + number)).collect();
            count += 1_000;
            if !say(&mut speaker, &many) {
                speaker = reader(attack.port, "heard");
            }
            assert!(listeners.iter_mut().all(drain), "a listener was disconnected");
        }
    });
}
