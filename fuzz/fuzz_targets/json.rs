//! Fuzzes `tenon_gateway::fuzz::json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tenon_gateway::fuzz::json(data));
