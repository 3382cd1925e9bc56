//! The first reading of a layer: what it is, which way leads through it, and what is kept of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{CHUNK_BYTES, Error, ErrorKind, Joined, Result, ResultExt as _, chunk_count};
use crate::cache::DocumentKind;
use crate::fetch::{Feed, Sequence};
use crate::layer::encoding::Codec;
use crate::layer::restart::RestartTable;
use crate::layer::{Entry, EntryKind, Extents, IndexParts, LayerIndex, LayerProof, LayerStream, Timestamp};

use super::pass::{self, Passed};
use super::points::Points;
use super::probe::{Holds, Probe, probe};
use super::prove::{self, Outcome};
use super::segments::{WINDOW_BYTES, member_number, window_number};
use super::sorter::{Sorted, Sorter};
use super::stream::{DecodedStream, PlainStream};
use super::turn::Turn;
use super::{Expected, Layer, OwnIndex, Stage, own_index, walk};

/// Readings of a layer whose bytes turn out to be wrong, where there is nobody else to ask for them. Each host that brings
/// wrong ones is distrusted from then on, so that there is an end.
const ATTEMPTS_MAX: usize = 2;

/// Mismatches of all of a layer after which it is given up: it has then been fetched twice.
const MISMATCHES_MAX: u32 = 2;

/// How long the fetch of a chunk for a check may go without progress.
const FILL_LIMIT: Duration = Duration::from_secs(100);

/// What the entry of a layer that is one file is called; whoever shows it knows its name.
const FILE_NAME: &str = "file";

/// Reads `layer` and says what became of it.
pub(super) async fn run(layer: Arc<Layer>) {
    let stage = match read(&layer).await {
        Ok(Some(stage)) => stage,
        // It was said already.
        Ok(None) => return,
        Err(error) => {
            tracing::error!(digest = %layer.blob, error = error.chain(), "a layer cannot be read");
            Stage::Failed(error)
        }
    };
    layer.stage.send_replace(stage);
}

async fn read(layer: &Arc<Layer>) -> Result<Option<Stage>> {
    let in_layer = || format!("layer {}", layer.blob);
    if let Some(own) = &layer.own_index {
        match by_own_index(layer, own).await {
            Ok(parts) => return Ok(known(layer, parts, None)),
            Err(error) if error.kind().is_transient() => return Err(error).context(in_layer),
            Err(error) => {
                layer.warn(format!("its own index ({}) is not used: {}", own.name(), error.chain()))
            }
        }
    }
    let mut probed = probed(layer).await.context(in_layer)?;
    if let Some(why) = unexpected(layer.expected, probed) {
        return Ok(Some(Stage::NoArchive(why.into())));
    }
    layer.stage.send_replace(Stage::Reading);
    let mut turn = Turn::take(&layer.layers.readings).await;
    let mut attempt = 1;
    loop {
        match read_once(layer, &mut turn, probed).await {
            Err(error) if condemns_bytes(&error) => {
                let elsewhere = condemn(layer);
                let once_more = is_about_bytes(&error, probed) && attempt < ATTEMPTS_MAX;
                if !elsewhere && !once_more {
                    return Err(error).context(in_layer);
                }
                tracing::warn!(digest = %layer.blob, error = error.chain(), "reading the layer once more");
                attempt += 1;
                // What told what it is may have been as wrong.
                let before = std::mem::replace(&mut probed, self::probed(layer).await.context(in_layer)?);
                if before.codec.is_some() != probed.codec.is_some() {
                    let text = "its first bytes came as other ones before; mount it again";
                    return Err(Error::new(ErrorKind::Corrupt, text)).context(in_layer);
                }
            }
            other => return other.context(in_layer),
        }
    }
}

/// What the index that `own` names says of `layer`; by the bytes of another host, where those of one are not what was
/// promised.
async fn by_own_index(layer: &Arc<Layer>, own: &OwnIndex) -> Result<IndexParts> {
    let mut is_doubted = false;
    loop {
        let error = match own_index::read(layer, own).await {
            Err(error) if condemns_bytes(&error) => error,
            other => return other,
        };
        let blob = own.blob(&layer.blob);
        let elsewhere = match error.kind() {
            ErrorKind::Corrupt => layer.sources.distrust(blob),
            _ => !std::mem::replace(&mut is_doubted, true) && layer.sources.doubt(blob),
        };
        if !elsewhere {
            return Err(error);
        }
        tracing::warn!(digest = %layer.blob, error = error.chain(), "reading the layer's own index once more");
    }
}

/// What the first bytes of `layer` tell. Nobody has checked these, and what they tell decides which files there are: what
/// is not as expected is looked at twice, and by another host's bytes where there is one.
async fn probed(layer: &Layer) -> Result<Probe> {
    let ask = || probe(&layer.sources, &layer.blob, layer.blob_bytes, layer.counter());
    let first = ask().await?;
    if unexpected(layer.expected, first).is_none() {
        return Ok(first);
    }
    layer.sources.doubt(&layer.blob);
    ask().await
}

/// What a layer is instead of what was expected.
fn unexpected(expected: Expected, probed: Probe) -> Option<&'static str> {
    match (expected, probed.codec, probed.holds) {
        (Expected::File, None, _) => Some("it is not compressed"),
        (Expected::Archive, None, Holds::Other | Holds::Unclear) => Some("its bytes are no tar archive"),
        (Expected::Archive, Some(_), Holds::Other) => Some("what it decompresses to is no tar archive"),
        _ => None,
    }
}

/// Whether other bytes may do better: those of a damaged transfer or of another source. What a pass finds wrong with a
/// layer is found in bytes that nobody has checked either, but it costs all of the layer to know that.
fn is_about_bytes(error: &Error, probed: Probe) -> bool {
    error.kind() == ErrorKind::Corrupt || (error.kind() == ErrorKind::Invalid && probed.codec.is_none())
}

async fn read_once(layer: &Arc<Layer>, turn: &mut Turn, probed: Probe) -> Result<Option<Stage>> {
    layer.forget_findings();
    if probed.codec == Some(Codec::Zstd)
        && layer.expected == Expected::Archive
        && let Some(table) = turn.lend_while(own_index::seek_table(layer)).await?
    {
        return by_seek_table(layer, turn, table).await;
    }
    if let Some(codec) = probed.codec {
        return decode(layer, turn, codec).await;
    }
    let stream = PlainStream { blob: layer.blob.clone(), bytes: layer.blob_bytes };
    layer.opened(Arc::new(stream), Vec::new(), layer.stored_proof());
    let warnings = walk::walk(layer, turn, layer.blob_bytes).await?;
    let stage = known(layer, parts(layer, LayerStream::Plain, layer.blob_bytes, warnings), None);
    layer.prove_if_complete();
    Ok(stage)
}

/// What has been found, which it is not any more afterwards.
fn parts(layer: &Layer, stream: LayerStream, stream_bytes: u64, mut warnings: Vec<String>) -> IndexParts {
    let (entries, root) = {
        let mut findings = super::lock(&layer.findings);
        warnings.append(&mut findings.warnings);
        (std::mem::take(&mut findings.entries), findings.root.take())
    };
    IndexParts {
        layer: layer.blob.clone(),
        blob_bytes: layer.blob_bytes,
        stream_bytes,
        diff_id: None,
        stream,
        root,
        entries,
        members: layer.segments.get().map(|segments| segments.members()).unwrap_or_default(),
        warnings,
        carried: None,
        trusted: false,
    }
}

/// Makes the index of `parts` and keeps it. The layer's stage is set, or is the answer.
fn known(layer: &Layer, parts: IndexParts, proof: Option<LayerProof>) -> Option<Stage> {
    let index = match LayerIndex::new(parts) {
        Ok(index) => index,
        Err(error) => return Some(Stage::Failed(error)),
    };
    // The index last: with it, nothing reads the layer from its start again, so that a proof that is missing when the
    // process ends here would be missing for good.
    if let Some(proof) = &proof {
        layer.layers.fetcher.record_proof(proof);
    }
    keep(layer, &index);
    if let (Some(proof), Some(segments)) = (proof, layer.segments.get()) {
        segments.prove(proof);
    }
    tracing::info!(digest = %layer.blob, entries = index.len(), bytes = index.stream_bytes(), "indexed a layer");
    // The one on disk costs no memory of ours.
    layer.known(layer.stored_index().unwrap_or(index));
    None
}

fn keep(layer: &Layer, index: &LayerIndex) {
    let cache = layer.layers.fetcher.cache();
    let kept = cache.write_document(DocumentKind::LayerIndex, &layer.identity, &index.bytes());
    if let Err(error) = kept {
        tracing::warn!(digest = %layer.blob, error = error.chain(), "the layer's index is not kept");
    }
}

/// The walk over a layer of many frames, which can be entered at each of them.
async fn by_seek_table(layer: &Arc<Layer>, turn: &mut Turn, table: RestartTable) -> Result<Option<Stage>> {
    let stream_bytes = table.stream_bytes();
    let points = layer.points.get_or_init(|| Arc::new(Points::complete(table.clone())));
    points.replace(table.clone());
    let stream =
        DecodedStream { blob: layer.blob.clone(), blob_bytes: layer.blob_bytes, points: Arc::clone(points) };
    layer.opened(Arc::new(stream), Vec::new(), None);
    let warnings = walk::walk(layer, turn, stream_bytes).await?;
    let mut parts = parts(layer, LayerStream::Restart(table), stream_bytes, warnings);
    parts.carried = Some("seek table".into());
    Ok(known(layer, parts, None))
}

/// Whether nothing that came before `error` is worth keeping. A source that goes away says nothing about that.
fn condemns_bytes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::Unsupported)
}

/// Forgets what came of `layer`, for the next attempt to get other bytes. Says whether they come from elsewhere.
fn condemn(layer: &Layer) -> bool {
    let elsewhere = layer.sources.distrust(&layer.blob);
    if let Some(segments) = layer.segments.get() {
        Feed::disprove(&segments.feeds(), false);
    }
    elsewhere
}

/// The pass over a compressed layer.
async fn decode(layer: &Arc<Layer>, turn: &mut Turn, codec: Codec) -> Result<Option<Stage>> {
    let points = Arc::clone(layer.points.get_or_init(|| Arc::new(Points::growing(codec))));
    points.restart(codec);
    let stream =
        DecodedStream { blob: layer.blob.clone(), blob_bytes: layer.blob_bytes, points: Arc::clone(&points) };
    layer.opened(Arc::new(stream), Vec::new(), None);
    let passed = pass_over(layer, turn, points).await?;
    let Passed { sorted, points, diff_id, stream_bytes } = passed;
    let (warnings, proofs) = match sorted {
        Sorted::Archive { warnings, proofs } => (warnings, proofs),
        Sorted::NoArchive { proofs } if layer.expected == Expected::File => {
            layer.found(crate::layer::tar::TarItem::Entry(whole_file(stream_bytes)?));
            (Vec::new(), proofs)
        }
        Sorted::NoArchive { .. } => {
            return Ok(Some(Stage::NoArchive("what it decompresses to is no tar archive".into())));
        }
    };
    let mut parts = parts(layer, LayerStream::Restart(points), stream_bytes, warnings);
    (parts.diff_id, parts.trusted) = (Some(diff_id), true);
    Ok(known(layer, parts, Some(LayerProof::of_segments(layer.identity.clone(), proofs))))
}

async fn pass_over(layer: &Arc<Layer>, turn: &mut Turn, points: Arc<Points>) -> Result<Passed> {
    let segments = layer.segments()?;
    segments.begin_passages();
    // Ends the passages also when this is given up.
    let guard = Passages { layer };
    let room = layer.layers.fetcher.cache().bytes_max() / 2;
    let sorter = Sorter::new(Arc::clone(layer), layer.expected == Expected::Archive, room);
    let sources = Arc::clone(&layer.sources);
    let sequence = Sequence::new(sources, layer.blob.clone(), layer.blob_bytes, layer.counter());
    let passed = pass::run(sequence, turn, &layer.blob, layer.blob_bytes, points, sorter).await;
    if let Err(error) = &passed {
        segments.end_passages(Some(error));
    }
    drop(guard);
    passed
}

struct Passages<'a> {
    layer: &'a Layer,
}

impl Drop for Passages<'_> {
    fn drop(&mut self) {
        if let Some(segments) = self.layer.segments.get() {
            segments.end_passages(None);
        }
    }
}

/// The entry of a layer that is one file of `bytes`.
fn whole_file(bytes: u64) -> Result<Entry> {
    Ok(Entry {
        path: FILE_NAME.parse()?,
        kind: EntryKind::File { size: bytes, extents: Extents::Contiguous { stream_offset: 0 } },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Box::default(),
    })
}

/// Fetches what is still missing between the members of `layer`, and checks it.
///
/// # Errors
/// What fetching failed with; those of the segments.
pub(super) async fn complete_and_prove(layer: &Arc<Layer>, index: &Arc<LayerIndex>) -> Result<()> {
    fill_windows(layer, index).await?;
    let (proving, index) = (Arc::clone(layer), Arc::clone(index));
    let proven = tokio::task::spawn_blocking(move || prove(&proving, &index)).await;
    proven.map_err(|_| Error::new(ErrorKind::Io, "the check of a layer broke off"))?
}

/// Checks `layer`, all of which is cached, against its digest and against `index`. Waits for the disk.
///
/// # Errors
/// Those of the segments.
fn prove(layer: &Arc<Layer>, index: &LayerIndex) -> Result<()> {
    match prove::read(layer, index)? {
        Outcome::Incomplete => {}
        Outcome::Mismatch => {
            tracing::error!(digest = %layer.blob, "the complete layer does not match its digest; dropped it");
            let elsewhere = layer.sources.distrust(&layer.blob);
            let mismatches = layer.mismatches.fetch_add(1, Ordering::Relaxed) + 1;
            Feed::disprove(&layer.segments()?.feeds(), mismatches >= MISMATCHES_MAX && !elsewhere);
        }
        Outcome::Proven { proof, diff_id, entries, root } => {
            let parts = IndexParts {
                layer: layer.blob.clone(),
                blob_bytes: layer.blob_bytes,
                stream_bytes: index.stream_bytes(),
                diff_id: Some(diff_id),
                stream: LayerStream::Plain,
                root,
                entries,
                members: index.members().collect(),
                warnings: index.warnings(),
                carried: None,
                trusted: true,
            };
            let verified = LayerIndex::new(parts)?;
            if !is_same(&verified, index) {
                // It was made of other bytes than those that were promised.
                layer.stage.send_replace(Stage::Failed(Error::new(
                    ErrorKind::Corrupt,
                    format!("layer {}: its headers came as other bytes before; mount it again", layer.blob),
                )));
                keep(layer, &verified);
                layer.tell_rejected();
                return Ok(());
            }
            keep(layer, &verified);
            layer.layers.fetcher.record_proof(&proof);
            layer.segments()?.prove(proof);
            tracing::info!(digest = %layer.blob, bytes = index.stream_bytes(), "verified a complete layer");
        }
    }
    Ok(())
}

fn is_same(one: &LayerIndex, other: &LayerIndex) -> bool {
    one.len() == other.len()
        && one.root() == other.root()
        && (0..one.len()).all(|at| one.entry(at) == other.entry(at))
}

/// Fetches all of `layer` and checks it.
///
/// # Errors
/// What fetching failed with; `NoSpace` when the cache cannot hold it; `Corrupt` when it does not match its digest.
pub(super) async fn verify(layer: &Arc<Layer>, index: &Arc<LayerIndex>) -> Result<()> {
    if matches!(index.stream(), LayerStream::Restart(_)) {
        return verify_by_pass(layer, index).await;
    }
    for attempt in 1..=ATTEMPTS_MAX {
        for at in 0..index.member_count() {
            layer.feed(member_number(at))?.fill(true).await?;
        }
        complete_and_prove(layer, index).await?;
        if layer.is_proven() {
            return Ok(());
        }
        tracing::debug!(digest = %layer.blob, attempt, "the layer is not verified yet");
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("layer {}: the bytes do not match the digest, after fetching them again too", layer.blob),
    ))
}

/// Checks a compressed layer, whose index came from elsewhere, by a pass over it.
async fn verify_by_pass(layer: &Arc<Layer>, index: &LayerIndex) -> Result<()> {
    let mut turn = Turn::take(&layer.layers.readings).await;
    if layer.is_proven() {
        return Ok(());
    }
    let points = layer.points.get().map(Arc::clone).ok_or_else(|| {
        Error::new(ErrorKind::Io, format!("nothing of layer {} was opened yet", layer.blob))
    })?;
    // Those of a check that was broken off.
    super::lock(&layer.findings).forget();
    let passed = pass_over(layer, &mut turn, points).await;
    if passed.as_ref().is_err_and(condemns_bytes) {
        condemn(layer);
    }
    let Passed { sorted, points, diff_id, stream_bytes } = passed?;
    let Sorted::Archive { warnings, proofs } = sorted else {
        return Err(Error::new(ErrorKind::Corrupt, format!("layer {} is no archive", layer.blob)));
    };
    let mut parts = parts(layer, LayerStream::Restart(points), stream_bytes, warnings);
    (parts.diff_id, parts.trusted) = (Some(diff_id), true);
    parts.carried = index.carried().map(str::to_owned);
    let verified = LayerIndex::new(parts)?;
    keep(layer, &verified);
    if !is_same(&verified, index) {
        let text = format!("layer {}: the index that came with it says something else", layer.blob);
        let error = Error::new(ErrorKind::Corrupt, text);
        layer.stage.send_replace(Stage::Failed(error.clone()));
        return Err(error);
    }
    let proof = LayerProof::of_segments(layer.identity.clone(), proofs);
    layer.layers.fetcher.record_proof(&proof);
    layer.segments()?.prove(proof);
    Ok(())
}

/// Brings what stands between the members of a layer into the cache.
async fn fill_windows(layer: &Arc<Layer>, index: &LayerIndex) -> Result<()> {
    for chunk in layer.segments()?.shared_chunks(index.stream_bytes()) {
        let (window, chunk) = (chunk * CHUNK_BYTES / WINDOW_BYTES, chunk % chunk_count(WINDOW_BYTES));
        let feed = layer.feed(window_number(window))?;
        if !feed.segment().is_present(chunk) {
            let bytes = chunk * CHUNK_BYTES..(chunk + 1) * CHUNK_BYTES;
            feed.read(bytes, FILL_LIMIT, &mut Joined::default()).await?;
        }
    }
    Ok(())
}
