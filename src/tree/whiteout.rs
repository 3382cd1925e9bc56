//! The names by which a layer of an image hides what is below it (image-spec, layer.md, "Whiteouts").

use super::merge::split;

/// What every such name begins with.
const PREFIX: &[u8] = b".wh.";

/// What the names begin with that say something else than "hide this name".
const META_PREFIX: &[u8] = b".wh..wh.";

/// The name that hides all that the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a path with such a name in it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// `name` in `directory` is hidden.
    Whiteout {
        /// The directory's path; empty for the root.
        directory: &'a [u8],
        /// The hidden name.
        name: &'a [u8],
    },
    /// All that is in `directory` is hidden.
    Opaque {
        /// The directory's path; empty for the root.
        directory: &'a [u8],
    },
    /// Nothing; what aufs kept there for itself.
    Meta,
}

impl<'a> Marker<'a> {
    /// What `path` means, if it is no name of a file.
    pub(super) fn of(path: &'a [u8]) -> Option<Self> {
        if !path.starts_with(PREFIX) && !contains_marker(path) {
            return None;
        }
        let (directory, name) = split(path);
        if directory.starts_with(PREFIX) || contains_marker(directory) {
            return Some(Self::Meta);
        }
        Some(match name.strip_prefix(PREFIX) {
            _ if name == OPAQUE => Self::Opaque { directory },
            Some(hidden) if !name.starts_with(META_PREFIX) => Self::Whiteout { directory, name: hidden },
            _ => Self::Meta,
        })
    }
}

/// Whether a name after the first begins with the prefix.
fn contains_marker(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        rest = &rest[slash + 1..];
        if rest.starts_with(PREFIX) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hide_and_names_that_only_look_like_it() {
        let whiteout = |directory: &'static str, name: &'static str| {
            Some(Marker::Whiteout { directory: directory.as_bytes(), name: name.as_bytes() })
        };
        let cases = [
            (".wh.a", whiteout("", "a")),
            ("d/e/.wh.a", whiteout("d/e", "a")),
            ("d/.wh..a", whiteout("d", ".a")),
            ("d/.wh.", whiteout("d", "")),
            (".wh..wh..opq", Some(Marker::Opaque { directory: b"" })),
            ("d/.wh..wh..opq", Some(Marker::Opaque { directory: b"d" })),
            (".wh..wh.plnk", Some(Marker::Meta)),
            ("d/.wh..wh.aufs", Some(Marker::Meta)),
            (".wh..wh.plnk/1.2", Some(Marker::Meta)),
            ("d/.wh.a/b", Some(Marker::Meta)),
            ("a.wh.b", None),
            ("d/a.wh.", None),
            (".wh", None),
            ("wh./.w/h.", None),
        ];
        for (path, marker) in cases {
            assert_eq!(Marker::of(path.as_bytes()), marker, "{path}");
        }
    }
}
