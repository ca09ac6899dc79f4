//! `/v1/policies` and `/v1/jobs`: what was pushed, and how far an upload has come.

use std::time::Duration;

use althing_client::wire::JobQuery;
use althing_core::info::{JobInfo, PolicyInfo};
use althing_core::limits;
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State};
use crate::answer::{Answer, Asked, Names, Packed, Told};

pub(super) async fn push(
    On(runtime): On,
    Extension(by): By,
    Packed(bundle): Packed,
) -> Answer<Told<202, JobInfo>> {
    Ok(Told(runtime.push(&by, bundle)?))
}

pub(super) async fn job(
    Shared(state): Shared<State>,
    On(runtime): On,
    Names(id): Names<String>,
    Asked(query): Asked<JobQuery>,
) -> Answer<Json<JobInfo>> {
    if query.wait_ms == 0 {
        return Ok(Json(runtime.job(&id)?));
    }
    let wait = Duration::from_millis(query.wait_ms).min(limits::JOB_WAIT_MAX);
    tokio::select! {
        job = runtime.job_done(&id, wait) => Ok(Json(job?)),
        () = state.ending.cancelled() => Ok(Json(runtime.job(&id)?)),
    }
}

pub(super) async fn list(On(runtime): On) -> Answer<Json<Vec<PolicyInfo>>> {
    Ok(Json(runtime.policies().await?))
}

pub(super) async fn show(On(runtime): On, Names(name): Names<String>) -> Answer<Json<PolicyInfo>> {
    Ok(Json(runtime.policy(&name).await?))
}
