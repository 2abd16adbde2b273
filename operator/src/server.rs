//! Answers `/metrics`, `/healthz` and `/readyz`.

use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How the operator is; a clone tells the same.
#[derive(Clone, Debug)]
pub struct Health {
    started: Instant,
    /// Milliseconds from the start to the last sign of life.
    beat: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: Instant::now(), beat: Arc::default(), ready: Arc::default() }
    }
}

/// The loop shows signs of life every 10 seconds; without one for so long it hangs.
const SILENCE: Duration = Duration::from_secs(60);

impl Health {
    /// The loop goes round.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// Everything was listed once.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn lives(&self) -> bool {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(beat) < SILENCE
    }

    /// Whether all objects are known, so that this replica could lead.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// Answers on `listener` until `end`.
///
/// # Errors
/// The listener cannot be used any more.
pub async fn serve(
    listener: tokio::net::TcpListener,
    metrics: Metrics,
    health: Health,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route(
            "/healthz",
            get(|State((_, health)): State<(Metrics, Health)>| answer(health.lives(), "the loop hangs")),
        )
        .route(
            "/readyz",
            get(|State((_, health)): State<(Metrics, Health)>| {
                answer(health.is_ready(), "not all objects are listed yet")
            }),
        )
        .with_state((metrics, health));
    axum::serve(listener, routes).with_graceful_shutdown(end).await
}

async fn show_metrics(State((metrics, _)): State<(Metrics, Health)>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn answer(good: bool, otherwise: &'static str) -> std::future::Ready<Response> {
    std::future::ready(if good {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{otherwise}\n")).into_response()
    })
}
