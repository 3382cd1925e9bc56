//! What the OCI specifications define, as types: references, descriptors, manifests, indexes and platforms.
//!
//! Pure parsing: bytes and text in, checked values or an error out. Nothing here does I/O.

pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use manifest::{Descriptor, Document, Index, Manifest};
pub use platform::{Platform, WantedPlatform};
pub use reference::{LayoutContainer, LayoutRef, RegistryRef, ShortRef, SourceRef, behind_user};
