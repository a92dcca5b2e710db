//! A version against the next one, and bytes that no version sends.

use landfall_protocol::frame::{
    Ephemeral, FLAG_OPTIONAL, Frame, FrameError, Frames, decode, encode, encode_into, kind,
    raw_frame,
};
use landfall_protocol::limits::{FRAME_HEADER_BYTES, MESSAGE_BYTES};
use landfall_protocol::{Code, limits};

use crate::examples;

/// A kind that no version has.
const LATER: u16 = 4_096;

fn frames(message: &[u8]) -> Result<Vec<Frame>, FrameError> {
    Frames::new(message)?.collect()
}

/// A frame of a later version between two of this one.
fn with_a_later_frame(flags: u16) -> Vec<u8> {
    let mut message = encode(&Frame::Ping(1));
    raw_frame(LATER, flags, b"whatever its content", &mut message);
    encode_into(&Frame::Pong(2), &mut message);
    message
}

/// The same message with another body of its only frame.
fn with_body(message: &[u8], body: &[u8]) -> Vec<u8> {
    let mut changed = Vec::new();
    let kind = u16::from_le_bytes([message[0], message[1]]);
    raw_frame(kind, 0, body, &mut changed);
    changed
}

#[test]
fn a_later_optional_frame_is_skipped() {
    let message = with_a_later_frame(FLAG_OPTIONAL);
    assert_eq!(frames(&message), Ok(vec![Frame::Ping(1), Frame::Pong(2)]));
}

#[test]
fn a_later_frame_that_is_not_optional_ends_the_message() {
    let mut frames = Frames::new(&with_a_later_frame(0)).unwrap().collect::<Vec<_>>().into_iter();
    assert_eq!(frames.next(), Some(Ok(Frame::Ping(1))));
    let error = FrameError::UnknownKind { kind: LATER };
    assert_eq!(error.code(), Code::UNKNOWN_FRAME);
    assert_eq!(frames.next(), Some(Err(error)));
    assert_eq!(frames.next(), None);
}

#[test]
fn a_known_frame_may_be_marked_optional() {
    let mut message = Vec::new();
    raw_frame(kind::PING, FLAG_OPTIONAL, &3u64.to_le_bytes(), &mut message);
    assert_eq!(decode(&message), Ok(Frame::Ping(3)));
}

#[test]
fn unknown_flags_are_refused_on_every_frame() {
    for (name, frame) in examples::all() {
        let mut message = encode(&frame);
        message[3] = 0x80;
        let error = decode(&message).unwrap_err();
        let FrameError::UnknownFlags { flags, .. } = error else { panic!("{name}: {error}") };
        assert_eq!(flags & !FLAG_OPTIONAL, 0x8000, "{name}");
        assert_eq!(error.code(), Code::MALFORMED);
    }
    let flags = 2 | FLAG_OPTIONAL;
    let expected = FrameError::UnknownFlags { kind: LATER, flags };
    assert_eq!(frames(&with_a_later_frame(flags)), Err(expected));
}

#[test]
fn trailing_bytes_after_a_body_are_refused() {
    for (name, frame) in examples::all() {
        let message = encode(&frame);
        let longer = [&message[FRAME_HEADER_BYTES..], &[0]].concat();
        let error = decode(&with_body(&message, &longer)).unwrap_err();
        assert!(matches!(error, FrameError::Body { .. }), "{name}: {error}");
        assert_eq!(error.code(), Code::MALFORMED);
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (name, frame) in examples::all() {
        let message = encode(&frame);
        for length in 0..message.len() {
            let error = decode(&message[..length]).unwrap_err();
            assert!(matches!(error, FrameError::Truncated { .. }), "{name} at {length}: {error}");
        }
        let body = &message[FRAME_HEADER_BYTES..];
        for length in 0..body.len() {
            let error = decode(&with_body(&message, &body[..length])).unwrap_err();
            assert!(matches!(error, FrameError::Body { .. }), "{name} at {length}: {error}");
        }
    }
}

#[test]
fn a_changed_byte_never_panics() {
    for (_, frame) in examples::all() {
        let message = encode(&frame);
        for at in 0..message.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut changed = message.clone();
                changed[at] = value;
                // Some are other valid frames; all give a result.
                let _ = frames(&changed);
            }
        }
    }
}

#[test]
fn a_message_over_the_limit_is_refused_before_it_is_read() {
    let (limit, actual) = (MESSAGE_BYTES, MESSAGE_BYTES + 1);
    let message = vec![0xff; actual];
    let error = FrameError::TooLarge { actual, limit };
    assert_eq!(Frames::new(&message).err(), Some(error.clone()));
    assert_eq!(error.code(), Code::TOO_LARGE);
    assert_eq!(decode(&message), Err(error));
    assert!(Frames::new(&message[..limit]).is_ok());
}

/// Without the codec's byte limit this aborts the process by a huge allocation.
#[test]
fn sixteen_bytes_that_claim_a_huge_list_are_refused() {
    let mut message = Vec::new();
    raw_frame(kind::HELLO, 0, &u64::MAX.to_le_bytes(), &mut message);
    assert_eq!(message.len(), 16);
    let claims = [u64::MAX, u64::MAX / 2, 1 << 48, 1 << 32, MESSAGE_BYTES as u64 + 1];
    for claim in claims {
        message[8..].copy_from_slice(&claim.to_le_bytes());
        let error = decode(&message).unwrap_err();
        assert!(matches!(error, FrameError::Body { kind: kind::HELLO, .. }), "{error}");
        // The same claim for the bytes of a push's only change.
        let push = [&[0; 28][..], &1u64.to_le_bytes(), &claim.to_le_bytes()].concat();
        let mut pushed = Vec::new();
        raw_frame(kind::PUSH, 0, &push, &mut pushed);
        assert!(matches!(decode(&pushed), Err(FrameError::Body { kind: kind::PUSH, .. })));
    }
}

#[test]
fn fields_over_their_limits_are_named() {
    let Some((_, Frame::Hello(mut hello))) = examples::all().into_iter().next() else {
        panic!("the first example is a hello")
    };
    hello.agent = "x".repeat(limits::TEXT_BYTES);
    assert!(decode(&encode(&Frame::Hello(hello.clone()))).is_ok());
    hello.agent.push('x');
    let error = decode(&encode(&Frame::Hello(hello.clone()))).unwrap_err();
    assert!(error.to_string().contains("hello.agent"), "{error}");
    assert_eq!(error.code(), Code::TOO_LARGE);
    hello.agent.clear();
    hello.versions = vec![1; limits::HELLO_VERSIONS + 1];
    let error = decode(&encode(&Frame::Hello(hello))).unwrap_err();
    assert!(error.to_string().contains("hello.versions"), "{error}");
}

#[test]
fn an_ephemeral_message_is_optional_and_bounded() {
    let frame = examples::all().into_iter().find_map(|(_, frame)| match frame {
        Frame::Ephemeral(message) => Some(message),
        _ => None,
    });
    let mut message = frame.unwrap();
    assert_eq!(encode(&Frame::Ephemeral(message.clone()))[2], FLAG_OPTIONAL as u8);
    message.data = vec![0; limits::EPHEMERAL_BYTES].into();
    message.sender = "x".repeat(limits::EPHEMERAL_NAME_BYTES);
    message.session = "y".repeat(limits::EPHEMERAL_NAME_BYTES);
    assert!(decode(&encode(&Frame::Ephemeral(message.clone()))).is_ok());
    type Lengthen = (&'static str, fn(&mut Ephemeral));
    let longer: [Lengthen; 3] = [
        ("ephemeral.data", |message| message.data.push(0)),
        ("ephemeral.sender", |message| message.sender.push('x')),
        ("ephemeral.session", |message| message.session.push('y')),
    ];
    for (field, lengthen) in longer {
        let mut message = message.clone();
        lengthen(&mut message);
        let error = decode(&encode(&Frame::Ephemeral(message))).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(error.code(), Code::TOO_LARGE);
    }
}
