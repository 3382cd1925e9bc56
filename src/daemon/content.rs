//! The requests about the content of the cache: what it holds, what is pinned in it, and what is brought into it.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use crate::base::{Digest, Error, ErrorKind};
use crate::cache::PinnedArtifact;
use crate::mount::{self, CacheContent, WarmStatus, held};

use super::api::{PinSummary, ReferenceQuery, WarmQuery, WarmStatusQuery};
use super::bodies::ArtifactBody;
use super::server::{Asked, Body, Refusal, Served, ending, on_disk};

/// How long a question that waits for the end of a warming is held.
const WARM_WAIT: Duration = Duration::from_millis(500);

pub(super) async fn list(State(served): State<Served>) -> Result<Json<CacheContent>, Refusal> {
    let mounted: Vec<(String, Digest)> =
        served.mounts.list().into_iter().map(|mount| (mount.reference, mount.digest)).collect();
    Ok(Json(on_disk(move || held::content(&served.cache, &mounted)).await??))
}

pub(super) async fn pins(State(served): State<Served>) -> Json<Vec<PinSummary>> {
    Json(served.cache.pins().iter().map(PinSummary::of).collect())
}

pub(super) async fn pin(State(served): State<Served>, body: Body<ArtifactBody>) -> Result<Response, Refusal> {
    let Json(ArtifactBody { request, limits }) = body?;
    served.give_way(&limits);
    let Some(hold) = served.mounts.hold() else { return Ok(ending()) };
    let layers = served.warms.layers().clone();
    // Goes on without whoever asked, who can ask again.
    let work = tokio::spawn(async move {
        let _hold = hold;
        mount::pin(&request, &layers).await
    });
    let pinned =
        work.await.map_err(|error| Error::new(ErrorKind::Io, format!("pinning broke off: {error}")))??;
    Ok(Json(PinSummary::of(&pinned)).into_response())
}

pub(super) async fn unpin(
    State(served): State<Served>,
    query: Asked<ReferenceQuery>,
) -> Result<Json<Vec<PinSummary>>, Refusal> {
    let Query(ReferenceQuery { reference }) = query?;
    let asked = reference.clone();
    let gone = on_disk(move || served.cache.unpin(|pin| is_meant(pin, &asked))).await??;
    if gone.is_empty() {
        let text = format!("{reference} is not pinned; refmount cache ls shows what is");
        return Err(Error::new(ErrorKind::NotFound, text).into());
    }
    Ok(Json(gone.iter().map(PinSummary::of).collect()))
}

/// Whether `asked`, a reference, a digest or both, means `pin`.
#[must_use]
pub fn is_meant(pin: &PinnedArtifact, asked: &str) -> bool {
    let PinnedArtifact { reference, digest, .. } = pin;
    asked == reference || asked == digest.to_string() || asked == format!("{reference}@{digest}")
}

pub(super) async fn warm(
    State(served): State<Served>,
    body: Body<ArtifactBody>,
) -> Result<Response, Refusal> {
    let Json(ArtifactBody { request, limits }) = body?;
    served.give_way(&limits);
    let Some(warming) = served.warms.begin(request).await? else { return Ok(ending()) };
    let status = on_disk(move || warming.status()).await?;
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

pub(super) async fn warms(State(served): State<Served>) -> Result<Json<Vec<WarmStatus>>, Refusal> {
    Ok(Json(on_disk(move || served.warms.list()).await?))
}

pub(super) async fn warm_status(
    State(served): State<Served>,
    query: Asked<WarmStatusQuery>,
) -> Result<Json<WarmStatus>, Refusal> {
    let Query(WarmStatusQuery { id, wait }) = query?;
    let asked = served.warms.get(id)?;
    if wait {
        // Otherwise it is asked again.
        let _ = tokio::time::timeout(WARM_WAIT, asked.over()).await;
    }
    Ok(Json(on_disk(move || asked.status()).await??))
}

pub(super) async fn cancel(
    State(served): State<Served>,
    query: Asked<WarmQuery>,
) -> Result<StatusCode, Refusal> {
    let Query(WarmQuery { id }) = query?;
    served.warms.get(id)?.cancel().await;
    Ok(StatusCode::NO_CONTENT)
}
