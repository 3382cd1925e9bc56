//! The metrics of an owner; docs/metrics.md has them all in one table, which a test holds against this.
//!
//! Labels have few values: operations, causes and sources are enumerated, hosts bounded in their number. No path,
//! reference or digest is one.

use std::fmt;
use std::sync::Arc;

use crate::cache::CacheCounters;
use crate::fetch::{ByCause, Cause, Served};
use crate::fuse::request_durations;
use crate::registry::{HostTotals, traffic};

use super::Watch;
use super::families::{self, Families, Labels};
use super::process::Usage;

impl Watch {
    /// All metrics as they are now, as text.
    ///
    /// # Errors
    /// None that is expected.
    pub(super) fn metrics(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let watch = Arc::clone(self);
        families::text(move |families| {
            watch.of_owner(families)?;
            watch.of_readers(families)?;
            watch.of_checks(families)?;
            of_hosts(families, &traffic())?;
            watch.of_cache(families)?;
            watch.of_process(families)
        })
    }

    fn of_owner(&self, families: &mut Families<'_>) -> fmt::Result {
        let open_files: usize = self.mounts.served().iter().map(|mount| mount.open_files()).sum();
        families.info(
            "refmount_build_info",
            "Always 1; its label says which version serves.",
            &vec![("version", env!("CARGO_PKG_VERSION"))],
        )?;
        families.gauge(
            "refmount_mounts",
            "Mounts that are served. Those that are unmounted while files of them are open are not counted.",
            self.mounts.running().len() as f64,
        )?;
        families.gauge(
            "refmount_mounts_unrestored",
            "Mounts from before this process that are not mounted now: still tried again, or given up. GET /v1/health names them.",
            self.unrestored().len() as f64,
        )?;
        families.gauge(
            "refmount_open_files",
            "Files of mounts that are open, of 1 MiB and more, each once, however often it is.",
            open_files as f64,
        )?;
        families.counter(
            "refmount_server_restarts_total",
            "Processes that served and died, so that another one had to go on. All other counters begin anew with it.",
            self.restarts as f64,
        )
    }

    fn of_readers(&self, families: &mut Families<'_>) -> fmt::Result {
        let (readers, totals) = (self.fetcher.readers(), self.fetcher.totals());
        let waits = readers.waits().observed();
        let longest = readers.longest_waiting().unwrap_or_default();
        let wasted = self.cache.counters().unread_bytes + totals.dropped_bytes();
        families.counters(
            "refmount_read_bytes_total",
            "Bytes that readers got through this process, by where they were. What the kernel answers by itself, out of the \
             page cache or by passthrough, is not seen.",
            by_source(readers.served()),
        )?;
        families.counters(
            "refmount_fetched_bytes_total",
            "Bytes of blobs that came from registries and layouts, by what they were fetched for: a reader that waited, \
             ahead of one, --prefetch all, or to find out what an archive holds.",
            by_cause(totals.fetched()),
        )?;
        families.counter(
            "refmount_read_ahead_wasted_bytes_total",
            "Bytes of whole chunks that were fetched ahead or by --prefetch all and went before anybody read them: evicted, \
             pruned, not taken by the cache, or brought twice.",
            wasted as f64,
        )?;
        families.counter(
            "refmount_reader_wait_seconds_total",
            "How long reads took, in all, that the cache could not answer at once.",
            waits.sum.as_secs_f64(),
        )?;
        families.histogram(
            "refmount_reader_wait_duration_seconds",
            "How long each of these reads took.",
            &waits,
        )?;
        families.gauge(
            "refmount_oldest_inflight_read_seconds",
            "How long the read has waited that has waited longest and still does; 0 if none does.",
            longest.as_secs_f64(),
        )?;
        families.histograms(
            "refmount_fuse_request_duration_seconds",
            "How long the kernel waited for an answer, by what it asked for.",
            request_durations().map(|(operation, observed)| (vec![("op", operation.name())], observed)),
        )
    }

    fn of_checks(&self, families: &mut Families<'_>) -> fmt::Result {
        let totals = self.fetcher.totals();
        families.counter(
            "refmount_verify_failures_total",
            "Checks against a digest that failed: of a chunk, a blob or a layer.",
            totals.verify_failures() as f64,
        )?;
        families.counter(
            "refmount_rejected_chunks_total",
            "Chunks that were dropped because such a check had failed.",
            totals.rejected_chunks() as f64,
        )
    }

    fn of_cache(&self, families: &mut Families<'_>) -> fmt::Result {
        let cache = &self.cache;
        let CacheCounters { evicted_bytes, damaged_chunks, .. } = cache.counters();
        families.gauge(
            "refmount_cache_bytes",
            "Bytes of content and documents in the cache.",
            cache.used_bytes() as f64,
        )?;
        families.gauge("refmount_cache_limit_bytes", "What the cache may hold.", cache.bytes_max() as f64)?;
        families.counter(
            "refmount_cache_evicted_bytes_total",
            "Bytes that were evicted to make room.",
            evicted_bytes as f64,
        )?;
        families.counter(
            "refmount_cache_damaged_chunks_total",
            "Chunks and documents of the cache that were not as they had been stored, and were dropped.",
            damaged_chunks as f64,
        )?;
        families.gauge(
            "refmount_cache_degraded",
            "1 while the cache takes nothing, because its disk refuses; reads go on without it.",
            f64::from(u8::from(cache.degraded().is_some())),
        )
    }

    fn of_process(&self, families: &mut Families<'_>) -> fmt::Result {
        let usage = Usage::now();
        families.counter(
            "process_cpu_seconds_total",
            "Time that the process that serves has used on processors.",
            usage.cpu_seconds,
        )?;
        families.gauge(
            "process_resident_memory_bytes",
            "Its resident memory.",
            usage.resident_bytes as f64,
        )?;
        families.gauge("process_virtual_memory_bytes", "Its address space.", usage.virtual_bytes as f64)?;
        families.gauge("process_open_fds", "File descriptors that it has open.", usage.open_fds as f64)?;
        families.gauge("process_max_fds", "File descriptors that it may have open.", usage.max_fds as f64)?;
        families.gauge(
            "process_start_time_seconds",
            "When it began to serve, in seconds since 1970.",
            self.began.unix_seconds(),
        )
    }
}

fn by_source(served: Served) -> [(Labels<'static>, u64); 2] {
    [(vec![("source", "disk")], served.disk_bytes), (vec![("source", "network")], served.network_bytes)]
}

fn by_cause(fetched: ByCause) -> impl Iterator<Item = (Labels<'static>, u64)> {
    Cause::ALL.into_iter().map(move |cause| (vec![("cause", cause.name())], fetched.of(cause)))
}

fn of_hosts(families: &mut Families<'_>, hosts: &[HostTotals]) -> fmt::Result {
    let requests: Vec<(&str, String, u64)> = hosts
        .iter()
        .flat_map(|host| host.requests.iter().map(|(code, count)| (host.host.as_str(), shown(*code), *count)))
        .collect();
    families.counters(
        "refmount_registry_requests_total",
        "Requests over HTTP, by the registry or mirror on whose behalf they were sent and the status of the answer; code \
         none: there was no answer. Those for tokens and those that are redirected are requests too.",
        requests
            .iter()
            .map(|(host, code, count)| (vec![("registry", *host), ("code", code.as_str())], *count)),
    )?;
    families.counters(
        "refmount_registry_bytes_total",
        "Bytes of blobs, by the registry or mirror that they came from.",
        hosts.iter().map(|host| (vec![("registry", host.host.as_str())], host.bytes)),
    )?;
    let set_aside = hosts.iter().filter(|host| host.set_aside > 0);
    families.counters(
        "refmount_mirror_set_aside_total",
        "How often a mirror failed and was set aside for another host.",
        set_aside.map(|host| (vec![("host", host.host.as_str())], host.set_aside)),
    )
}

fn shown(code: Option<u16>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}
