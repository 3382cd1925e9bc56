//! A source of blobs held in memory, which fails as it is told to and is strict about what it is asked.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use refmount::base::{Algorithm, Digest, Error, ErrorKind, Result, clock};
use refmount::oci::Descriptor;
use refmount::registry::{BlobBody, BlobSource, RawManifest};

/// How long a stalled body is waited for.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(30);

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing: the request is answered as it should be.
    None,
    /// It is refused with this kind of error.
    Refused(ErrorKind),
    /// It is refused for now, and asked for after this pause.
    Busy(Duration),
    /// The body breaks off after this many bytes.
    Truncated(u64),
    /// The body holds a flipped byte at this offset of the body.
    WrongByte(u64),
    /// The whole blob comes instead of the range.
    Whole,
    /// The body stops after this many bytes; the source gives up on it a while later.
    Stalled(u64),
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct MemorySource {
    blobs: HashMap<Digest, Bytes>,
    faults: Mutex<VecDeque<Fault>>,
    requests: Mutex<Vec<(Digest, Range<u64>)>>,
    times: Mutex<Vec<Instant>>,
    /// See [`MemorySource::damage`].
    wrong_at: Mutex<Option<u64>>,
    /// See [`MemorySource::go_slowly`].
    is_slow: AtomicBool,
}

impl MemorySource {
    /// Holds `blobs` and returns their digests in order.
    pub fn new(blobs: impl IntoIterator<Item = Vec<u8>>) -> (Self, Vec<Digest>) {
        let mut source = Self::default();
        let digests = blobs.into_iter().map(|blob| source.add(blob)).collect();
        (source, digests)
    }

    fn add(&mut self, blob: Vec<u8>) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &blob);
        self.blobs.insert(digest.clone(), blob.into());
        digest
    }

    /// Serves `blob` under a digest that is not its own.
    pub fn add_wrong(&mut self, digest: Digest, blob: Vec<u8>) {
        self.blobs.insert(digest, blob.into());
    }

    /// The next requests meet these faults, one each.
    pub fn schedule(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// From now on, whoever asks for the byte at `offset` of a blob gets another one; with None, nobody does any more.
    pub fn damage(&self, offset: Option<u64>) {
        *self.wrong_at.lock().unwrap() = offset;
    }

    /// From now on, others have a turn before each piece of a body.
    pub fn go_slowly(&self) {
        self.is_slow.store(true, Ordering::Relaxed);
    }

    /// How many scheduled faults have not been met yet.
    pub fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().iter().filter(|fault| **fault != Fault::None).count()
    }

    /// Whether bodies with wrong bytes are still to come.
    pub fn wrong_bytes_left(&self) -> bool {
        self.faults.lock().unwrap().iter().any(|fault| matches!(fault, Fault::WrongByte(_)))
    }

    /// Forgets the faults that have not been met.
    pub fn clear_faults(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<(Digest, Range<u64>)> {
        self.requests.lock().unwrap().clone()
    }

    /// When each of them came.
    pub fn request_times(&self) -> Vec<Instant> {
        self.times.lock().unwrap().clone()
    }
}

#[async_trait]
impl BlobSource for MemorySource {
    fn name(&self) -> &str {
        "memory"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        let blob = self.blobs.get(digest).unwrap_or_else(|| panic!("no blob {digest}")).clone();
        assert_eq!(size, blob.len() as u64, "the size asked for is the blob's");
        assert!(range.start < range.end && range.end <= size, "bad range {range:?} of {size}");
        self.requests.lock().unwrap().push((digest.clone(), range.clone()));
        self.times.lock().unwrap().push(clock::now());
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let range = if fault == Fault::Whole { 0..size } else { range };
        let mut body = blob.slice(range.start as usize..range.end as usize);
        if let Some(offset) = self.wrong_at.lock().unwrap().filter(|offset| range.contains(offset)) {
            let mut wrong = body.to_vec();
            wrong[(offset - range.start) as usize] ^= 1;
            body = wrong.into();
        }
        let mut ending = None;
        match fault {
            Fault::None | Fault::Whole => {}
            Fault::Busy(pause) => {
                return Err(Error::new(ErrorKind::Unavailable, "busy as scheduled").after(pause));
            }
            Fault::Refused(kind) => return Err(Error::new(kind, "refused as scheduled")),
            Fault::Truncated(bytes) => {
                body.truncate(bytes as usize);
                ending = Some(
                    stream::iter([Err(Error::new(ErrorKind::Unavailable, "truncated as scheduled"))]).boxed(),
                );
            }
            Fault::WrongByte(offset) => {
                let mut wrong = body.to_vec();
                let at = offset as usize % wrong.len();
                wrong[at] ^= 1;
                body = wrong.into();
            }
            Fault::Stalled(bytes) => {
                body.truncate(bytes as usize);
                ending = Some(
                    stream::once(async {
                        tokio::time::sleep(INACTIVITY_TIMEOUT).await;
                        Err(Error::new(ErrorKind::TimedOut, "stalled as scheduled"))
                    })
                    .boxed(),
                );
            }
        }
        // Pieces of an odd length, so that chunks never end where pieces do.
        let pieces: Vec<Bytes> =
            (0..body.len()).step_by(77_773).map(|at| body.slice(at..body.len().min(at + 77_773))).collect();
        let is_slow = self.is_slow.load(Ordering::Relaxed);
        let pieces = stream::iter(pieces).then(move |piece| async move {
            if is_slow {
                tokio::task::yield_now().await;
            }
            Ok(piece)
        });
        let pieces = match ending {
            Some(ending) => pieces.chain(ending).boxed(),
            None => pieces.boxed(),
        };
        Ok(BlobBody { range, pieces })
    }
}
