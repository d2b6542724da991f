//! Runs `jiexi::server::dns::fuzzing::both_ways`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| jiexi::server::dns::fuzzing::both_ways(octets));
