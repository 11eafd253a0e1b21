//! Property tests: random and damaged input to every decoder, and round trips in both encodings. The targets in `fuzz/`
//! run the same checks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "generate/choices.rs"]
mod choices;
mod generate;

use generate::Choices;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        generate::check_stream(&bytes);
        generate::check_body(&bytes);
        generate::check_properties(&bytes);
        generate::check_names(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn whole_frames(choices in vec(any::<u8>(), 0..1200)) {
        let mut choices = Choices(&choices);
        let mut stream = generate::frame(&mut choices);
        let first = stream.len();
        stream.extend(generate::frame(&mut choices));
        generate::check_stream(&stream);
        // What is written whole is read whole.
        let (frame, len) = ferromq_protocol::frame::split(&stream, 1 << 24).unwrap().unwrap();
        prop_assert_eq!(len, first);
        prop_assert!(ferromq_protocol::Command::parse(frame).is_ok());
    }

    #[test]
    fn damaged_frames(choices in vec(any::<u8>(), 0..1200)) {
        let mut choices = Choices(&choices);
        let mut stream = generate::frame(&mut choices);
        stream.extend(generate::frame(&mut choices));
        generate::damage(&mut choices, &mut stream);
        generate::check_stream(&stream);
    }

    #[test]
    fn bodies(choices in vec(any::<u8>(), 0..800)) {
        generate::check_body(&generate::body(&mut Choices(&choices)));
    }

    #[test]
    fn damaged_bodies(choices in vec(any::<u8>(), 0..800)) {
        let mut choices = Choices(&choices);
        let mut body = generate::body(&mut choices);
        generate::damage(&mut choices, &mut body);
        generate::check_body(&body);
    }

    #[test]
    fn properties_of_any_text(choices in vec(any::<u8>(), 0..200)) {
        let pieces: [&[u8]; 8] = [b"KEYS", b"\x01", b"\x02", b"a", b"", b"TAGS\x01t\x02", b"\xFF", b"KEYS\x01k\x02"];
        let mut choices = Choices(&choices);
        let text: Vec<u8> = (0..choices.below(20)).flat_map(|_| choices.pick(&pieces).to_vec()).collect();
        generate::check_properties(&text);
    }

    #[test]
    fn offset_ids(ip in any::<[u8; 4]>(), ip6 in any::<[u8; 16]>(), port in any::<u16>(), offset in any::<u64>()) {
        for host in [std::net::SocketAddr::from((ip, port)), std::net::SocketAddr::from((ip6, port))] {
            let id = ferromq_protocol::id::offset_message_id(host, offset);
            prop_assert_eq!(ferromq_protocol::id::parse_offset_message_id(&id), Some((host, offset)));
        }
    }
}

/// The captured frames, damaged: shapes no generator here knows.
#[test]
fn damaged_goldens() {
    let root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut seed = 1_u64;
    for folder in ["json", "binary"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            generate::check_stream(&bytes);
            for _ in 0..4 {
                let choices: Vec<u8> = (0..64)
                    .map(|_| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (seed >> 56) as u8
                    })
                    .collect();
                let mut damaged = bytes.clone();
                generate::damage(&mut Choices(&choices), &mut damaged);
                generate::check_stream(&damaged);
                let (frame, _) = ferromq_protocol::frame::split(&bytes, 1 << 24).unwrap().unwrap();
                let mut body = frame.body.to_vec();
                generate::check_body(&body);
                generate::damage(&mut Choices(&choices), &mut body);
                generate::check_body(&body);
            }
        }
    }
}
