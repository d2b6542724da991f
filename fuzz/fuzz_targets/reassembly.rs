//! Runs `jiexi_proto::fuzzing::reassembly`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| jiexi_proto::fuzzing::reassembly(octets));
