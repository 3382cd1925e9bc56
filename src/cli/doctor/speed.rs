//! Parts of a blob: whether a host serves just what was asked for, from where, and how fast.

use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::base::{CHUNK_BYTES, Error, ErrorKind, Result, clock};
use crate::cli::output::human;
use crate::oci::Descriptor;
use crate::registry::BlobSource as _;
use crate::registry::probe::HostProbe;

use super::finding::Finding;
use super::host::{remedy_for, within};

/// Requests that are measured, after a first one that opens the connection and follows the redirect.
const REQUESTS: u32 = 5;

/// From here on waiting for a part is what a reader notices most.
const SLOW: Duration = Duration::from_secs(1);

/// All of it, with the blob that `descriptor` names.
pub(super) async fn check(probe: &HostProbe, name: &str, descriptor: &Descriptor) -> Vec<Finding> {
    // Of a part of all bytes but one, 206 can be told from 200.
    let length = CHUNK_BYTES.min(descriptor.size.saturating_sub(1));
    if length == 0 {
        return vec![Finding::note("range", name, "the largest layer is too small to ask for a part of it")];
    }
    let first = within("a part of a blob", part(probe, descriptor, 0..length)).await;
    let mut found = vec![range(name, &first, length)];
    if first.is_ok() {
        let text = match probe.store_of(&descriptor.digest) {
            Some(store) => format!("redirects to {store} for blobs"),
            None => "serves blobs itself".to_owned(),
        };
        found.push(Finding::ok("redirect", name, text));
    }
    if matches!(first, Ok(Part::Exact)) {
        let times = within("five parts of a blob", times(probe, descriptor, length)).await;
        found.push(speed(name, times, length));
    }
    found
}

/// What came when a part was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// That, to its end.
    Exact,
    /// All of the blob, of which nothing was taken.
    Whole,
}

async fn part(probe: &HostProbe, descriptor: &Descriptor, range: Range<u64>) -> Result<Part> {
    let mut body = probe.blob(&descriptor.digest, descriptor.size, range.clone()).await?;
    if body.range != range {
        return Ok(Part::Whole);
    }
    while let Some(piece) = body.pieces.next().await {
        piece?;
    }
    Ok(Part::Exact)
}

async fn times(probe: &HostProbe, descriptor: &Descriptor, length: u64) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for request in 0..REQUESTS {
        let start = (descriptor.size - length) / u64::from(REQUESTS) * u64::from(request);
        let begun = clock::now();
        if part(probe, descriptor, start..start + length).await? == Part::Whole {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the whole blob came, where a part had come before",
            ));
        }
        times.push(clock::now().duration_since(begun));
    }
    Ok(times)
}

fn range(name: &str, first: &Result<Part>, length: u64) -> Finding {
    match first {
        Ok(Part::Exact) => {
            Finding::ok("range", name, format!("serves just the {} asked for (206)", human(length)))
        }
        Ok(Part::Whole) => Finding::warning(
            "range",
            name,
            "serves the whole blob (200) where a part is asked for, so blobs are fetched whole",
        )
        .remedy("put the artifact into a registry that does ranges, or have a proxy before it pass them on"),
        Err(error) => Finding::error("range", name, error.chain()).remedy(remedy_for(error.kind())),
    }
}

fn speed(name: &str, times: Result<Vec<Duration>>, length: u64) -> Finding {
    let median = times.map(|mut times| {
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    });
    match median {
        Ok(median) => {
            let text = format!(
                "{} in {} (median of {REQUESTS} requests on one connection), {}/s",
                human(length),
                milliseconds(median),
                human((length as f64 / median.as_secs_f64().max(1e-6)) as u64)
            );
            match median > SLOW {
                false => Finding::ok("speed", name, text),
                true => Finding::note("speed", name, text)
                    .remedy("a mirror that is nearer; reading through a file needs fewer requests, and so less of this"),
            }
        }
        Err(error) => Finding::warning("speed", name, error.chain()).remedy(remedy_for(error.kind())),
    }
}

/// For people.
pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn the_median_counts() {
        let times = [9, 1, 4, 900, 2].map(Duration::from_millis).to_vec();
        let finding = speed("r", Ok(times), 1 << 20);
        assert_eq!(finding.level, Level::Ok);
        assert_eq!(
            finding.finding,
            "1.0 MiB in 4.0 ms (median of 5 requests on one connection), 250.0 MiB/s"
        );
        let slow = vec![Duration::from_secs(2); 5];
        assert_eq!(speed("r", Ok(slow), 1 << 20).level, Level::Note);
    }

    #[test]
    fn a_whole_blob_is_a_warning() {
        assert_eq!(range("r", &Ok(Part::Whole), 5).level, Level::Warning);
        let error = Err(Error::new(ErrorKind::Unavailable, "status 206 with the wrong bytes"));
        assert_eq!(range("r", &error, 5).level, Level::Error);
    }
}
