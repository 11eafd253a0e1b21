//! Stores with damaged log, queues, index, checkpoint and tables, opened and used.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferromq_fuzz::stores::check(data));
