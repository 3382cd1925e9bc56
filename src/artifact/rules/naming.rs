//! Where a raw layer's file stands: the names that producers give, and what they leave to be counted.

use std::collections::HashMap;

use crate::oci::Descriptor;

use super::producers::Rule;

/// The file's path (model-spec, annotations), newer name first.
const FILEPATH: [&str; 2] = ["org.cncf.model.filepath", "org.cnai.model.filepath"];
/// The file's name (image-spec, annotations.md; ORAS and podman name files by it).
const TITLE: &str = "org.opencontainers.image.title";

/// Where a rule looks for the name of a layer's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameSource {
    /// The annotation of ModelPack, by its newer or its older name.
    Filepath,
    /// The annotation of ORAS and podman.
    Title,
    /// The key `name` of the descriptor.
    DescriptorName,
    /// The part of the media type that the rule leaves open.
    MediaTypeEnd,
    /// This name for the first layer of the kind, the same with a number for the others.
    Fixed(&'static str),
    /// This stem and extension; `STEM-00001-of-00003.EXTENSION` where the layers of the kind are several.
    Shards(&'static str, &'static str),
}

/// The name of a layer's file, or how it is made once all layers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name<'a> {
    /// The path, and what holds it.
    Given { path: &'a str, holder: &'static str },
    /// See [`NameSource::Fixed`].
    Kind(&'a str),
    /// See [`NameSource::Shards`].
    Shard { stem: &'static str, extension: &'static str },
    /// Nothing names it: the blob's own name.
    Digest,
}

/// The place of a layer among those that are named in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    number: usize,
    /// How many there are.
    count: usize,
}

/// The name that `rule` finds for `layer`.
pub(super) fn name<'a>(layer: &'a Descriptor, rule: &Rule) -> Name<'a> {
    rule.names.iter().find_map(|source| look(layer, rule, *source)).unwrap_or(Name::Digest)
}

fn look<'a>(layer: &'a Descriptor, rule: &Rule, source: NameSource) -> Option<Name<'a>> {
    let annotation =
        |holder: &'static str| layer.annotations.get(holder).map(|path| Name::Given { path, holder });
    match source {
        NameSource::Filepath => FILEPATH.into_iter().find_map(annotation),
        NameSource::Title => annotation(TITLE),
        NameSource::DescriptorName => {
            layer.name.as_deref().map(|path| Name::Given { path, holder: "the descriptor's name" })
        }
        NameSource::MediaTypeEnd => Some(Name::Kind(rule.media_type_end(&layer.media_type))),
        NameSource::Fixed(name) => Some(Name::Kind(name)),
        NameSource::Shards(stem, extension) => Some(Name::Shard { stem, extension }),
    }
}

/// Whether an annotation names the file of `layer`.
pub(super) fn is_annotated(layer: &Descriptor) -> bool {
    FILEPATH.iter().chain([&TITLE]).any(|key| layer.annotations.contains_key(*key))
}

/// The places of layers with these names, in the same order.
pub(super) fn places(names: &[Name<'_>]) -> Vec<Place> {
    let mut counts: HashMap<Name<'_>, usize> = HashMap::new();
    let numbers: Vec<usize> = names
        .iter()
        .map(|name| {
            let count = counts.entry(*name).or_default();
            *count += 1;
            *count
        })
        .collect();
    let place = |(name, number): (&Name<'_>, usize)| Place {
        number,
        count: counts.get(name).copied().unwrap_or(number),
    };
    names.iter().zip(numbers).map(place).collect()
}

impl Name<'_> {
    /// The path, as yet unchecked.
    pub(super) fn path(&self, layer: &Descriptor, place: Place) -> String {
        let Place { number, count } = place;
        match *self {
            Self::Given { path, .. } => path.to_owned(),
            Self::Kind(name) if number == 1 => name.to_owned(),
            // A model may come with two licences. What looks for the plain name finds the first.
            Self::Kind(name) => match name.rsplit_once('.') {
                Some((stem, extension)) => format!("{stem}-{number}.{extension}"),
                None => format!("{name}-{number}"),
            },
            Self::Shard { stem, extension } if count == 1 => format!("{stem}.{extension}"),
            Self::Shard { stem, extension } => format!("{stem}-{number:05}-of-{count:05}.{extension}"),
            Self::Digest => format!("{}-{}", layer.digest.algorithm().name(), layer.digest.hex()),
        }
    }

    /// Why the file stands there, for `inspect`.
    pub(super) fn why(&self, place: Place) -> String {
        match *self {
            Self::Given { holder, .. } => format!("the path is from {holder}"),
            Self::Kind(_) | Self::Shard { .. } if place.count == 1 => "the name is its kind's".into(),
            Self::Kind(_) | Self::Shard { .. } => {
                format!("the name is its kind's, the number its place: {} of {}", place.number, place.count)
            }
            Self::Digest => "nothing names it, so the path is from its digest".into(),
        }
    }
}
