//! One source for every binary: the target is named as the binary is.

#![no_main]

use ciphertune_tests::fuzz::named;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    // What is refused is still worth keeping when it reaches new code: most of a parser is refusals.
    (named(env!("CARGO_BIN_NAME")).run)(data);
    Corpus::Keep
});
