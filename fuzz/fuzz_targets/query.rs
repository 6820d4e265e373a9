//! Fuzzes `tenon_gateway::fuzz::query`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tenon_gateway::fuzz::query(data));
