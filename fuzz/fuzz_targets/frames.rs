//! Fuzzes `tenon_gateway::fuzz::frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tenon_gateway::fuzz::frames(data));
