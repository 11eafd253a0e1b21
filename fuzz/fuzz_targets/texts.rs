//! Message properties, message ids, names of topics and groups: any bytes.
#![no_main]

use ferromq_fuzz::generate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    generate::check_properties(data);
    generate::check_names(&String::from_utf8_lossy(data));
});
