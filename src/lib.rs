//! refmount presents an OCI artifact or image as a read-only directory tree, without pulling it first.
//!
//! The modules form one line: each imports only what stands above it in the list below. What travels
//! along it is described where it is defined; the way of a read is
//! [`fuse`] → [`fs`] → [`content`] → [`cache`] (a hit) or [`fetch`] → [`registry`] (a miss).

pub mod base;
pub mod keeper;
pub mod oci;
pub mod registry;
pub mod layer;
pub mod artifact;
pub mod cache;
pub mod fetch;
pub mod indexing;
pub mod content;
pub mod tree;
pub mod fs;
pub mod fuse;
pub mod mount;
pub mod daemon;
pub mod cli;
