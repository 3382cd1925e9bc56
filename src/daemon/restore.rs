//! Mounting again what was mounted before: once for all at the same time, and what failed again and again, with pauses
//! that grow, until it is there or nobody wants it any more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::base::backoff::Backoff;
use crate::base::{Error, ErrorKind};
use crate::mount::MountRecord;

use super::api;
use super::mounts::Mounts;
use super::persisted::Records;

/// The first pause after a failure: a network that comes up with the machine takes some seconds.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The longest one: what was mended is noticed within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Mounts everything that `records` expect and that is not mounted. Returns once each was tried; what failed goes on by
/// itself.
pub(super) async fn mount_again(mounts: &Arc<Mounts>, records: &Arc<Records>) {
    let missing = records.expected().into_iter().filter(|record| mounts.get(&record.request.target).is_err());
    let tried = missing.map(|record| {
        let (tell_tried, tried) = oneshot::channel();
        tokio::spawn(until_mounted(Arc::clone(mounts), Arc::clone(records), record, tell_tried));
        tried
    });
    join_all(tried.collect::<Vec<_>>()).await;
}

async fn until_mounted(
    mounts: Arc<Mounts>,
    records: Arc<Records>,
    record: MountRecord,
    tell_tried: oneshot::Sender<()>,
) {
    let mut tell_tried = Some(tell_tried);
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut said = None;
    let target = record.request.target.clone();
    while records.is_pending(&target) && !mounts.is_closed() {
        let limit = api::mount_timeout(&record.request);
        let outcome = timeout(limit, mounts.mount_again(record.clone())).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let text = format!("it did not come about within {} s", limit.as_secs());
            Err(Error::new(ErrorKind::TimedOut, text))
        });
        if let Err(error) = outcome {
            records.failed(&target, &error);
            let why = error.chain();
            // Once, and not each minute for days.
            if said.as_ref() != Some(&why) {
                tracing::warn!("{} is not mounted again yet: {why}", target.display());
                said = Some(why);
            }
        }
        if let Some(tell) = tell_tried.take() {
            // Whoever waited may have lost patience.
            let _ = tell.send(());
        }
        if records.is_pending(&target) {
            sleep(backoff.pause(None)).await;
        }
    }
}
