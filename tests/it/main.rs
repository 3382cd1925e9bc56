//! The tests that go through more than one module, as one binary.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "the tests are one binary; its modules share what they make public")]

mod api;
mod cli;
mod content;
mod doctor;
mod e2e;
mod faults;
mod fuse;
mod fuzz_corpus;
mod layers;
mod model;
mod owner;
mod pack;
mod platforms;
mod registries;
mod registry;
mod service;
mod support;
mod tar;
mod toc;
mod warming;
mod workplace;
