//! The JSON document of eStargz and zstd:chunked, which have the one of CRFS in common (`stargz.index.json`).
//!
//! Its entries are taken one by one as they are parsed, so that what a document takes in memory is what its entries
//! take, and those are bounded like the entries of a tar.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::chunks::{Chunk, Chunks, Places, sha256_of};
use super::listed::{Kind, Listed, Xattrs, invalid, number, shown};
use super::{Toc, members_of};
use crate::base::{Error, ErrorKind, Result};
use crate::layer::encoding::Codec;
use crate::layer::tar::TarItem;
use crate::layer::tar::budget::Budget;
use crate::layer::{Entry, EntryKind, RootAttributes};

/// The only version there is.
const VERSION: u64 = 1;

/// Names with replaced bytes that are warned of one by one.
const WARNINGS_MAX: usize = 10;

/// What is known of the layer beside its document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// What chunks are compressed with.
    pub(super) codec: Codec,
    /// Where in the blob the chunks end.
    pub(super) payload_bytes: u64,
    /// Bytes of the blob.
    pub(super) blob_bytes: u64,
    /// Files at the root that are the format's own.
    pub(super) hidden: &'static [&'static str],
}

/// Reads the document.
///
/// # Errors
/// `Invalid` for one that is malformed or does not fit the layer, `Unsupported` beyond a limit; naming the entry.
pub(super) fn parse(json: &[u8], layout: Layout) -> Result<Toc> {
    let mut collector = Collector::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = Document { collector: &mut collector, layout }
        .deserialize(&mut deserializer)
        .and_then(|version| deserializer.end().map(|()| version));
    if let Some(error) = collector.failed {
        return Err(error);
    }
    let malformed =
        |error| Error::with_source(ErrorKind::Invalid, "the table of contents is malformed", error);
    let version = parsed.map_err(malformed)?;
    if version != Some(VERSION) {
        let text = format!("the table of contents has version {version:?}, and only {VERSION} is known");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    collector.finish(layout)
}

/// One entry as it stands there. Fields that are not named are not needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    size: i64,
    #[serde(borrow, default)]
    modtime: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    link_name: Cow<'a, str>,
    #[serde(default)]
    mode: i64,
    #[serde(default)]
    uid: i64,
    #[serde(default)]
    gid: i64,
    #[serde(default)]
    dev_major: i64,
    #[serde(default)]
    dev_minor: i64,
    #[serde(borrow, default)]
    xattrs: Option<BTreeMap<Cow<'a, str>, Option<Cow<'a, str>>>>,
    #[serde(borrow, default)]
    digest: Cow<'a, str>,
    #[serde(default)]
    offset: i64,
    #[serde(default)]
    inner_offset: i64,
    #[serde(default)]
    end_offset: i64,
    #[serde(default)]
    chunk_offset: i64,
    #[serde(default)]
    chunk_size: i64,
    #[serde(borrow, default)]
    chunk_digest: Cow<'a, str>,
    #[serde(borrow, default)]
    chunk_type: Cow<'a, str>,
}

/// The entries so far.
#[derive(Debug, Default)]
struct Collector {
    entries: Vec<Entry>,
    root: Option<RootAttributes>,
    budget: Budget,
    chunks: Chunks,
    /// The compressed offsets of all chunks, for where each of them ends.
    offsets: Vec<u64>,
    /// Which entry is a file with which chunks.
    files: Vec<(usize, Places)>,
    current: Option<Current>,
    replaced: usize,
    warnings: Vec<String>,
    failed: Option<Error>,
}

/// The file whose chunks are being listed.
#[derive(Debug)]
struct Current {
    name: String,
    /// Its entry; none for one of the format's own.
    entry: Option<usize>,
    size: u64,
    first_chunk: usize,
    /// Where the last of its chunks ends in the blob, if that was said.
    compressed_end: Option<u64>,
    /// The digest of the whole file.
    digest: Option<[u8; 32]>,
}

impl Collector {
    fn push(&mut self, raw: Raw<'_>, layout: Layout) -> Result<()> {
        let name = raw.name.clone();
        let done = match raw.kind {
            Kind::Chunk => self.push_more(&raw),
            _ => self.end_file().and_then(|()| self.push_entry(raw, layout)),
        };
        done.map_err(|error| explained(error, &name))
    }

    fn push_entry(&mut self, raw: Raw<'_>, layout: Layout) -> Result<()> {
        let mut xattrs = Xattrs::default();
        for (name, value) in raw.xattrs.iter().flatten() {
            let value = STANDARD
                .decode(value.as_deref().unwrap_or_default())
                .map_err(|_| invalid(format!("the attribute {} is not in base64", shown(name.as_bytes()))))?;
            xattrs.push(name.as_bytes(), &value)?;
        }
        let listed = Listed {
            name: raw.name.as_bytes(),
            kind: raw.kind,
            size: raw.size,
            target: raw.link_name.as_bytes(),
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            mtime: raw.modtime.as_deref().unwrap_or_default(),
            major: raw.dev_major,
            minor: raw.dev_minor,
            xattrs,
        };
        let item = listed.into_item()?;
        self.budget.charge(&item)?;
        let entry = match item {
            TarItem::Root(root) => {
                self.root = Some(root);
                return Ok(());
            }
            TarItem::Entry(entry) => entry,
        };
        let is_hidden = layout.hidden.iter().any(|name| name.as_bytes() == entry.path.as_bytes());
        if !is_hidden {
            self.warn_of_replaced(&raw);
        }
        if let EntryKind::File { size, .. } = entry.kind {
            self.current = Some(Current {
                name: raw.name.clone().into_owned(),
                entry: (!is_hidden).then_some(self.entries.len()),
                size,
                first_chunk: self.chunks.count(),
                compressed_end: Some(number("endOffset", raw.end_offset)?).filter(|end| *end > 0),
                digest: sha256_of(&raw.digest)?,
            });
            if size > 0 {
                self.push_chunk(&raw)?;
            }
        }
        if !is_hidden {
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Takes a further chunk of the file before.
    fn push_more(&mut self, raw: &Raw<'_>) -> Result<()> {
        let current = self.current.as_ref().ok_or_else(|| invalid("it is a chunk without a file"))?;
        if !raw.name.is_empty() && *raw.name != *current.name {
            let before = shown(current.name.as_bytes());
            return Err(invalid(format!("it is a chunk of another file than {before} before it")));
        }
        self.push_chunk(raw)
    }

    fn push_chunk(&mut self, raw: &Raw<'_>) -> Result<()> {
        let compressed_offset = number("offset", raw.offset)?;
        let is_hole = match &*raw.chunk_type {
            "" => false,
            "zeros" => true,
            other => {
                let text = format!("its chunks are of an unknown type, {}", shown(other.as_bytes()));
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        };
        if !is_hole && compressed_offset == 0 {
            return Err(invalid("it has content and no offset"));
        }
        if compressed_offset > 0 {
            self.offsets.push(compressed_offset);
        }
        let is_more = raw.kind == Kind::Chunk;
        let chunk = Chunk {
            skip: number("innerOffset", raw.inner_offset)?,
            digest: sha256_of(&raw.chunk_digest)?,
            compressed_end: Some(number("endOffset", raw.end_offset)?).filter(|end| is_more && *end > 0),
            is_hole,
            ..Chunk::new(
                number("chunkOffset", raw.chunk_offset)?,
                number("chunkSize", raw.chunk_size)?,
                compressed_offset,
            )
        };
        self.chunks.push(chunk)
    }

    /// Checks the file before, whose chunks are all there.
    fn end_file(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let places = self
            .chunks
            .end_file(current.first_chunk, current.size, current.compressed_end, current.digest)
            .map_err(|error| explained(error, &current.name))?;
        match current.entry {
            Some(entry) => self.files.push((entry, places)),
            None => self.chunks.forget(places.start),
        }
        Ok(())
    }

    fn warn_of_replaced(&mut self, raw: &Raw<'_>) {
        if raw.name.contains(char::REPLACEMENT_CHARACTER)
            || raw.link_name.contains(char::REPLACEMENT_CHARACTER)
        {
            self.replaced += 1;
            if self.replaced <= WARNINGS_MAX {
                let name = shown(raw.name.as_bytes());
                self.warnings.push(format!(
                    "the name or the target of {name} has a character that the layer's writer puts in the place of \
                     bytes that are not UTF-8"
                ));
            }
        }
    }

    fn finish(mut self, layout: Layout) -> Result<Toc> {
        self.end_file()?;
        let spans =
            self.chunks.lay_out(layout.codec, layout.payload_bytes, layout.blob_bytes, &mut self.offsets)?;
        for (at, places) in &self.files {
            if let EntryKind::File { size, extents } = &mut self.entries[*at].kind {
                *extents = self.chunks.extents(places, *size);
            }
        }
        if let Some(more) = self.replaced.checked_sub(WARNINGS_MAX).filter(|more| *more > 0) {
            self.warnings.push(format!("{more} more names or targets have such a character"));
        }
        Ok(Toc {
            members: members_of(&self.entries),
            entries: self.entries,
            root: self.root,
            stream_bytes: spans.stream_bytes(),
            spans,
            warnings: self.warnings,
        })
    }
}

fn explained(error: Error, name: &str) -> Error {
    error.context(format!("entry {} of the table of contents", shown(name.as_bytes())))
}

/// The whole document, which comes to its version.
struct Document<'c> {
    collector: &'c mut Collector,
    layout: Layout,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { collector, layout } = self;
        let (mut version, mut has_entries) = (None, false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "version" => version = Some(map.next_value()?),
                "entries" if has_entries => return Err(serde::de::Error::duplicate_field("entries")),
                "entries" => {
                    has_entries = true;
                    map.next_value_seed(Entries { collector: &mut *collector, layout })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(version)
    }
}

/// Its entries; the writers say `null` for none.
struct Entries<'c> {
    collector: &'c mut Collector,
    layout: Layout,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(raw) = entries.next_element::<Raw<'de>>()? {
            if let Err(error) = self.collector.push(raw, self.layout) {
                self.collector.failed = Some(error);
                return Err(serde::de::Error::custom("an entry is refused"));
            }
        }
        Ok(())
    }
}
