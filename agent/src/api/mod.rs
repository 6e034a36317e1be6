//! HTTP: `/healthz`, `/metrics`, `/status`. Read-only, without authentication: whoever reaches it learns positions,
//! sizes and times, and no secret.

mod model;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tidemark_types::{Clock, ErrorClass, SystemClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::HttpSettings;
use crate::exit::Failure;
use crate::metrics;
use crate::state::AgentState;
use model::{Health, Status};

/// A port that is ours, not served yet.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
}

impl Api {
    /// Takes the port, so that a configuration that cannot work fails before anything else begins.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(settings: &HttpSettings) -> Result<Api, Failure> {
        let listen = &settings.listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            Failure::new(
                ErrorClass::Config,
                format!("listen for HTTP on {listen}: {error}"),
            )
            .hint("another agent may be running; choose another port as [http] listen")
        })?;
        Ok(Api { listener })
    }

    /// Answers until `cancel`; requests under way are finished.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, agent: Arc<AgentState>, cancel: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, routes(agent))
            .with_graceful_shutdown(cancel.cancelled_owned())
            .await
    }
}

fn routes(agent: Arc<AgentState>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_page))
        .route("/status", get(status))
        .with_state(agent)
}

async fn healthz(State(agent): State<Arc<AgentState>>) -> Response {
    let health = Health::of(&agent, SystemClock.now());
    let code = if health.healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(code, &health)
}

async fn status(State(agent): State<Arc<AgentState>>) -> Response {
    json(StatusCode::OK, &Status::of(&agent, SystemClock.now()))
}

async fn metrics_page(State(agent): State<Arc<AgentState>>) -> Response {
    let page = metrics::render(&agent, SystemClock.now());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(body) {
        Ok(text) => (code, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
