//! The routes.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::{any, get, post};

use super::asking::Shared;
use super::{
    artifacts, document, estimate, events, jobs, lineage, operators, page, submit, system, uploads,
    webhooks,
};
use crate::studio::problem::Problem;

/// Every route of the studio.
pub(in crate::studio) fn router(studio: Shared) -> Router {
    Router::new()
        .route("/compress", post(submit::compress))
        .route("/optimize", post(submit::optimize))
        .route("/delta/compress", post(submit::delta))
        .route("/status/{id}", get(jobs::one))
        .route("/artifact/{id}", get(artifacts::of_job))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/retry", post(jobs::retry))
        .route("/jobs/{id}/events", get(events::stream))
        .route("/jobs/{id}/log", get(jobs::log))
        .route("/artifacts", get(artifacts::list))
        .route("/artifacts/{*name}", get(artifacts::one))
        .route("/lineage/{*name}", get(lineage::draw))
        .route("/uploads", post(uploads::begin))
        .route("/uploads/{id}", get(uploads::whole).delete(uploads::remove))
        .route(
            "/uploads/{id}/{file}",
            post(uploads::create).head(uploads::offset).patch(uploads::append),
        )
        .route("/estimate", post(estimate::estimate))
        .route("/presets", get(system::presets))
        .route("/hardware", get(system::hardware))
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/webhooks/{id}", get(webhooks::one).delete(webhooks::remove))
        .route("/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/webhooks/{id}/test", post(webhooks::test))
        .route("/workers", get(operators::workers))
        .route("/tenants", get(operators::tenants))
        .route("/audit", get(operators::audit))
        .route("/me", get(system::me))
        .route("/health", get(system::health))
        .route("/healthz", get(system::health))
        .route("/readyz", get(system::ready))
        .route("/openapi.json", get(document::document))
        .route("/", get(page::index))
        .route("/studio/app.js", get(page::script))
        .route("/studio/style.css", get(page::style))
        .route("/studio/icon.svg", get(page::icon))
        .route("/docs", get(page::docs))
        .route("/studio/docs.js", get(page::docs_script))
        .fallback(any(absent))
        .method_not_allowed_fallback(other_method)
        .with_state(studio)
}

async fn absent() -> Problem {
    Problem::absent("such path; /openapi.json lists them")
}

async fn other_method(method: Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} means nothing here"))
}
