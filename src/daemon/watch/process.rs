//! What the kernel says of this process, under the names that all exporters use for it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::base::{clock, process};

/// When this process began to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    unix_time: Duration,
}

impl Began {
    pub(super) fn now() -> Self {
        Self { unix_time: clock::unix_time() }
    }

    /// Seconds since 1970.
    pub(super) fn unix_seconds(self) -> f64 {
        self.unix_time.as_secs_f64()
    }
}

/// What it uses right now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
}

impl Usage {
    /// What cannot be found out is zero.
    pub(super) fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let (virtual_bytes, resident_bytes) = memory().unwrap_or_default();
        // The directory is open while it is listed.
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes,
            virtual_bytes,
            open_fds: open_fds as u64,
            max_fds: process::descriptor_limit().unwrap_or(u64::MAX),
        }
    }
}

/// Bytes of memory, all and resident (proc(5), `statm`).
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map_while(|word| word.parse::<u64>().ok());
    let page_bytes = rustix::param::page_size() as u64;
    Some((pages.next()? * page_bytes, pages.next()? * page_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_uses() {
        let usage = Usage::now();
        assert!(usage.cpu_seconds > 0.0);
        assert!(usage.resident_bytes > 1 << 20 && usage.resident_bytes < usage.virtual_bytes);
        assert!(usage.open_fds > 2 && usage.open_fds <= usage.max_fds);
    }
}
