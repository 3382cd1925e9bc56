//! How a layer's bytes hold its files, as far as the manifest tells.

use crate::oci::Descriptor;

use super::naming;
use super::producers::Rule;

/// ORAS's mark of a directory that was packed into a gzip-compressed tar (oras-project/oras-go,
/// `content/file/file.go`).
const ORAS_UNPACK: &str = "io.deis.oras.content.unpack";

/// What the bytes of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The file itself.
    File,
    /// An archive, compressed or not.
    Archive,
    /// One file, compressed.
    Compressed,
}

/// Ends of media types that say what the bytes are. Longer ones come first.
const ENDS: [(&str, Form); 14] = [
    (".tar", Form::Archive),
    (".tar+gzip", Form::Archive),
    (".tar+zstd", Form::Archive),
    (".tar.gzip", Form::Archive),
    (".tar.gz", Form::Archive),
    (".tar.zstd", Form::Archive),
    ("/x-tar", Form::Archive),
    ("+gzip", Form::Compressed),
    ("+zstd", Form::Compressed),
    (".gzip", Form::Compressed),
    (".gz", Form::Compressed),
    ("/gzip", Form::Compressed),
    ("/x-gzip", Form::Compressed),
    ("/zstd", Form::Compressed),
];

/// The form of `layer`, to which `rule` applies.
pub(super) fn of(layer: &Descriptor, rule: &Rule) -> Form {
    if layer.annotations.get(ORAS_UNPACK).is_some_and(|value| value == "true") {
        return Form::Archive;
    }
    // ORAS gives plain files the image layer's media type by default, so that a name says more than the type
    // does; a known producer's type is exact.
    if !rule.is_exact() && naming::is_annotated(layer) {
        return Form::File;
    }
    let said = ENDS.iter().find(|(end, _)| layer.media_type.ends_with(end));
    said.map_or(Form::File, |(_, form)| *form)
}

/// Why a layer is taken for an archive, for `inspect`.
pub(super) fn why_archive(layer: &Descriptor) -> String {
    match layer.annotations.contains_key(ORAS_UNPACK) {
        true => format!("it is an archive by the annotation {ORAS_UNPACK}"),
        false => "it is an archive by its media type".into(),
    }
}

/// Whether the media type says that registries need not hold the layer (image-spec, layer.md,
/// "Non-Distributable Layers"; Docker's `foreign` layers).
pub(super) fn is_not_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}
