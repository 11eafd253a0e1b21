//! JSON bodies of every type, in fastjson's dialect, damaged.
#![no_main]

use ferromq_fuzz::{generate, raw_or_damaged};

libfuzzer_sys::fuzz_target!(|data: &[u8]| raw_or_damaged(data, generate::body, generate::check_body));
