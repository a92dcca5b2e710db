//! Random damage to honest changes, sealed again so that it reaches the later checks.

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ObjType, ROOT, ScalarValue};
use landfall_test_rng::Rng;

use super::*;

/// Bodies of small changes of many shapes.
fn bodies() -> Vec<Vec<u8>> {
    let mut document = AutoCommit::new().with_actor(ActorId::from([5; 4]));
    let text = document.put_object(ROOT, "text", ObjType::Text).unwrap();
    document.splice_text(&text, 0, 0, "hello world").unwrap();
    let mark = Mark::new("bold".to_owned(), true, 1, 6);
    document.mark(&text, mark, ExpandMark::After).unwrap();
    document.put(ROOT, "n", ScalarValue::counter(3)).unwrap();
    document.commit();
    let mut peer = document.fork().with_actor(ActorId::from([2; 4]));
    peer.splice_text(&text, 3, 4, "xyz").unwrap();
    peer.increment(ROOT, "n", 4).unwrap();
    peer.put(ROOT, "k", "there").unwrap();
    document.put(ROOT, "k", "here").unwrap();
    document.merge(&mut peer).unwrap();
    document.put(ROOT, "k", 1.5).unwrap();
    document.splice_text(&text, 2, 5, "").unwrap();
    document.delete(ROOT, "n").unwrap();
    let list = document.put_object(ROOT, "list", ObjType::List).unwrap();
    document.insert(&list, 0, 7u64).unwrap();
    let changes = document.get_changes(&[]);
    let drafts = [Draft::put(), Draft::overwrite(), Draft::insert()];
    changes.iter().map(body_of).chain(drafts.iter().map(Draft::body)).collect()
}

fn mutate(body: &mut Vec<u8>, random: &mut Rng) {
    const TELLING: [u8; 10] = [0, 1, 2, 3, 0x3f, 0x40, 0x7e, 0x7f, 0x80, 0xff];
    for _ in 0..=random.below(3) {
        let at = random.below(body.len() as u64) as usize;
        match random.below(6) {
            0 => body[at] ^= 1 << random.below(8),
            1 => body[at] = TELLING[random.below(10) as usize],
            2 => body[at] = body[at].wrapping_add(1),
            3 => body.insert(at, TELLING[random.below(10) as usize]),
            4 if body.len() > 1 => drop(body.remove(at)),
            _ => {
                let other = random.below(body.len() as u64) as usize;
                body.swap(at, other);
            }
        }
    }
}

#[test]
fn mutations_never_panic_and_what_passes_survives_a_saved_document() {
    const SEED: u64 = 0x1a4d_fa11_0000_0001;
    const ROUNDS: u64 = 20_000;
    let mut random = Rng::new(SEED);
    let bodies = bodies();
    let mut passed = 0;
    for round in 0..ROUNDS {
        let mut body = bodies[random.below(bodies.len() as u64) as usize].clone();
        mutate(&mut body, &mut random);
        let deflated = random.below(4) == 0;
        let bytes = if deflated { seal_deflated(&body) } else { seal(&body) };
        let Ok(checked) = preflight(&bytes) else { continue };
        passed += 1;
        let change = Change::from_bytes(bytes).unwrap_or_else(|e| {
            panic!("seed {SEED:#x}, round {round}: automerge refuses a change that passed: {e}")
        });
        assert_eq!(change.hash(), checked.hash, "seed {SEED:#x}, round {round}");
        assert_eq!(
            change.raw_bytes().len(),
            checked.inflated_bytes,
            "seed {SEED:#x}, round {round}"
        );
        // automerge sorts dependencies when it rebuilds; in a document it keeps their order.
        if change.deps().is_sorted() {
            assert_eq!(
                rebuilt(&change),
                change.raw_bytes(),
                "seed {SEED:#x}, round {round}: {body:02x?}"
            );
        }
    }
    assert!(
        passed > ROUNDS / 50,
        "seed {SEED:#x}: only {passed} passed, mutations no longer reach far"
    );
    assert!(passed < ROUNDS, "every mutation passed");
}

#[test]
fn noise_never_panics() {
    let mut random = Rng::new(0x9e37_79b9_7f4a_7c15);
    for _ in 0..5_000 {
        let length = random.below(120);
        let body: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        assert!(preflight(&body).is_err());
        let _ = preflight(&seal(&body));
        let _ = preflight(&sealed(2, &body, &body));
    }
}
