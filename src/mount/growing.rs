//! A mount whose layers are still being read for the first time: its tree grows as they are.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, ErrorKind, Result};
use crate::indexing::Found;
use crate::tree::{GrowingView, Growth, GrowthLayer, Tree};

use super::assembly::{Assembly, Part};
use super::numbers;
use super::task::Task;

/// How long a mount waits for first readings that are under way: most are over by then, and what is known is refused at
/// once if it has to be, lists at once, and is one tree from the beginning.
pub(super) const GRACE: Duration = Duration::from_millis(300);

/// The view of `subpath` of what `assembly` has so far, and the task that brings it to its end. `stall_timeout` is how
/// long nothing at all may come before those that wait for a name get an error. The numbers that are given out are noted in
/// `numbers`.
///
/// # Errors
/// As [`GrowingView::new`]; what a layer cannot be read with.
pub(super) async fn grow(
    assembly: &Assembly,
    subpath: Option<&str>,
    reference: &str,
    stall_timeout: Duration,
    numbers: Option<&File>,
) -> Result<(GrowingView, Task)> {
    let mut layers = Vec::new();
    for part in assembly.parts() {
        let known = part.tree_layer()?.map(|layer| layer.index);
        let layer = part.described();
        layers.push(GrowthLayer {
            digest: layer.descriptor.digest.clone(),
            directory: layer.directory.clone(),
            role: part.role(),
            known,
        });
    }
    let growth = Arc::new(Growth::new(layers));
    if let Some(numbers) = numbers {
        numbers::note(&growth, numbers)?;
    }
    for (at, part) in assembly.parts().iter().enumerate() {
        let (told, names_entries) = (Arc::clone(&growth), part.names_entries());
        assembly.watch(
            at,
            Arc::new(move |found| match found {
                Found::Entry(entry) if names_entries => told.push(at, entry),
                Found::Entry(_) | Found::Progress => told.progress(),
            }),
        );
    }
    // A layer whose last mount is gone is never settled, so it must not be waited for any longer than this.
    let task = Task::spawn(finish(Arc::clone(&growth), assembly.parts().to_vec()));
    let view = GrowingView::new(growth, subpath, reference, stall_timeout).await?;
    Ok((view, task))
}

/// Waits for all layers, and gives the growth its end.
async fn finish(growth: Arc<Growth>, parts: Vec<Part>) {
    let end = async {
        let mut layers = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            part.settled().await;
            let unsettled = || Error::new(ErrorKind::Io, "a layer is not known yet");
            let layer = part.tree_layer()?.ok_or_else(unsettled)?;
            growth.layer_known(at, Arc::clone(&layer.index));
            layers.push(layer);
        }
        let built = tokio::task::spawn_blocking(move || Tree::build(&layers)).await;
        built.map_err(|_| Error::new(ErrorKind::Io, "building the tree broke off"))?
    };
    growth.finish(end.await.map(Arc::new));
}
