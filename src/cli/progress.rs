//! Progress of long work: on standard error, and only if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long work goes on silently: what ends sooner needs no bar.
const SILENCE: Duration = Duration::from_millis(500);

/// A bar that counts bytes; gone without a trace when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    appears_at: std::time::Instant,
}

impl Progress {
    /// A bar for `total` bytes.
    #[must_use]
    pub(super) fn bytes(total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, appears_at: crate::base::clock::now() + SILENCE }
    }

    /// What is worked on.
    pub(super) fn name(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// Of `total` bytes, `done` are done.
    pub(super) fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.advance(0);
    }

    /// `bytes` more are done.
    pub(super) fn advance(&self, bytes: u64) {
        if self.bar.is_hidden() && crate::base::clock::now() > self.appears_at {
            // Hides itself where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
