//! Whole runs from a seed: edits, cuts, restarts, compactions and failures in random order, then
//! convergence. It knows no document's content.

use landfall_test_rng::Rng;

use crate::world::World;

fn run(seed: u64) {
    let mut world = World::new(seed, 4, 2);
    world.relay.log.page_bytes = [300, 2_000, 8 << 20][seed as usize % 3];
    world.clients[3].keeps_states = false;
    world.relay.denies = seed % 4;
    for _ in 0..400 {
        let client = world.rng.below(4);
        let document = world.documents[world.rng.below(2)];
        match world.rng.below(100) {
            0..25 => world.edit(client, document),
            25..30 => {
                let times = world.rng.below(30);
                world.edit_often(client, document, times);
            }
            30..36 => world.connect(client),
            36..39 => world.disconnect(client),
            39..42 => {
                let count = 1 + world.rng.below(40);
                world.relay.log.compact(&document, count);
            }
            42 => world.restart(),
            43..45 if world.clients[client].session.is_some() => {
                let id = world.session_id(client);
                world.relay.overflow(id);
            }
            45 => world.relay.fail_commit(),
            46..48 => world.open(client, document),
            48 if world.clients[client].copies.contains_key(&document) => {
                // Its storage loses the sync state with the relay.
                world.clients[client].forget(&document);
            }
            49 => world.pass(std::time::Duration::from_millis(700)),
            50 if world.clients[client].session.is_some() && !session_ended(&mut world, client) => {
                // It sends a second `join` on the same connection.
                world.clients[client].out.clear();
                world.session(client).sent.clear();
                world.clients[client].join();
            }
            _ => {
                let steps = world.rng.below(20);
                world.steps(steps);
            }
        }
    }
    converge(&mut world);
}

/// Connects all clients and checks that all have everything.
fn converge(world: &mut World) {
    world.settle();
    for client in 0..world.clients.len() {
        for document in world.documents.clone() {
            world.open(client, document);
        }
        if world.clients[client].session.is_none() || session_ended(world, client) {
            world.connect(client);
        }
    }
    world.settle();
    world.assert_all_live();
    world.assert_equal();
    // A last edit reaches every client once.
    for client in 0..world.clients.len() {
        world.traffic(client);
    }
    let document = world.documents[0];
    world.edit(0, document);
    world.settle();
    world.assert_equal();
    for client in 1..world.clients.len() {
        let traffic = world.traffic(client);
        assert_eq!((traffic.received, traffic.received_chunks), (1, 1), "{client}: {traffic:?}");
    }
    assert_eq!(world.traffic(0).received_chunks, 0);
}

fn session_ended(world: &mut World, client: usize) -> bool {
    world.session(client).ended.is_some()
}

/// `LANDFALL_SEED` runs one seed, `LANDFALL_SEEDS` sets their number.
#[test]
fn all_peers_converge_after_random_faults() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LANDFALL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LANDFALL_SEEDS").unwrap_or(60),
    };
    seeds.for_each(run);
}

/// A run depends on its seed alone.
#[test]
fn the_same_seed_gives_the_same_run() {
    let draw = || {
        let mut rng = Rng::new(5);
        (0..10).map(|_| rng.next_u64()).collect::<Vec<_>>()
    };
    assert_eq!(draw(), draw());
    let heads = |seed| {
        let mut world = World::new(seed, 2, 1);
        let document = world.documents[0];
        for client in [0, 1] {
            world.connect(client);
            world.edit_often(client, document, 5);
        }
        world.settle();
        (world.relay.log.heads(&document), world.traffic(0), world.traffic(1))
    };
    assert_eq!(heads(7), heads(7));
    assert_ne!(heads(7), heads(8));
}
