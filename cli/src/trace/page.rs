//! The page and the query API behind it.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::{jaeger, store::Store};

const PAGE: &str = include_str!("page.html");
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

type Traces = State<Arc<Mutex<Store>>>;

/// `/`, `/api/services`, `/api/traces`, `/api/traces/{id}`.
pub(crate) fn router(store: Arc<Mutex<Store>>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/trace/{id}", get(page))
        .route("/api/services", get(services))
        .route("/api/traces", get(traces))
        .route("/api/traces/{id}", get(trace))
        .with_state(store)
}

#[derive(Deserialize)]
struct Filter {
    service: Option<String>,
    operation: Option<String>,
    limit: Option<usize>,
}

async fn page() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, PAGE).into_response()
}

async fn services(State(store): Traces) -> Response {
    let traces = store.lock().await.newest(usize::MAX, |_| true);
    let names: BTreeSet<String> = traces.into_iter().flat_map(|(_, spans)| spans).map(|span| span.service).collect();
    Json(json!({ "data": names, "total": names.len(), "errors": null })).into_response()
}

async fn traces(State(store): Traces, Query(filter): Query<Filter>) -> Response {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let is = |wanted: &Option<String>, value: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == value)
    };
    let found = store.lock().await.newest(limit, |spans| {
        spans.iter().any(|span| is(&filter.service, &span.service) && is(&filter.operation, &span.name))
    });
    Json(jaeger::answer(&found)).into_response()
}

async fn trace(State(store): Traces, Path(id): Path<String>) -> Response {
    let spans = store.lock().await.get(&id);
    match spans {
        Some(spans) => Json(jaeger::answer(&[(id, spans)])).into_response(),
        None => {
            let error = json!({ "code": 404, "msg": "no such trace here; the newest 10,000 spans are kept" });
            (StatusCode::NOT_FOUND, Json(json!({ "data": [], "errors": [error] }))).into_response()
        }
    }
}
