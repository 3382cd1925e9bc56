//! What the tests share: artifacts with known bytes, the registries and sources that hold them, and guards.

pub(crate) mod artifact;
pub(crate) mod authority;
pub(crate) mod connection;
pub(crate) mod debian_image;
pub(crate) mod docker_registry;
pub(crate) mod empty_registries;
pub(crate) mod extents;
pub(crate) mod fault_registry;
pub(crate) mod http_server;
pub(crate) mod memory_source;
pub(crate) mod nginx;
pub(crate) mod pattern;
pub(crate) mod port;
pub(crate) mod producers;
#[path = "../../../src/base/program_file.rs"]
pub(crate) mod program_file;
pub(crate) mod recording_proxy;
pub(crate) mod seeds;
pub(crate) mod signed_urls;
pub(crate) mod supervised;
pub(crate) mod token_server;
pub(crate) mod trace_log;
pub(crate) mod tree_comparison;
pub(crate) mod unprivileged;
