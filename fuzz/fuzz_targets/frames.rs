//! Frames, headers in both encodings and every header family: streams of valid frames, damaged.
#![no_main]

use ferromq_fuzz::{generate, raw_or_damaged};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let two = |choices: &mut generate::Choices<'_>| {
        let mut stream = generate::frame(choices);
        stream.extend(generate::frame(choices));
        stream
    };
    raw_or_damaged(data, two, generate::check_stream);
});
