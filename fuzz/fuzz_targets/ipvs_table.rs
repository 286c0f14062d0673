//! Any text as `/proc/net/ip_vs`: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = ipvs::proc::parse(text);
});
