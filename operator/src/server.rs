//! Probes and metrics over HTTP. Reads only; it answers nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Passes that stand still for this long end the process by its liveness probe.
const STILL: Duration = Duration::from_secs(15 * 60);
/// Deadline of a request's head, and of a whole connection.
const HEAD: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS: usize = 64;

/// What the probes ask.
#[derive(Clone)]
pub struct Health {
    /// Set once the API server answered.
    pub reached: Arc<AtomicBool>,
    /// Whether passes stand still.
    pub metrics: Arc<Metrics>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, health: Health) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no connection was accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let health = health.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<_>| {
                let answer = answer(&health, request.method().as_str(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever hangs up, or hangs, is of no interest.
            let _ = tokio::time::timeout(CONNECTION, connection).await;
            drop(permit);
        });
    }
}

fn answer(health: &Health, method: &str, path: &str) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => match health.metrics.page() {
            Ok(page) => (StatusCode::OK, "text/plain; version=0.0.4", page),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
        },
        ("GET" | "HEAD", "/livez") if health.metrics.stands_still(Instant::now(), STILL) => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "passes stand still\n".to_owned())
        }
        ("GET" | "HEAD", "/readyz") if !health.reached.load(Ordering::Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "no API server yet\n".to_owned())
        }
        ("GET" | "HEAD", "/livez" | "/readyz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (_, "/metrics" | "/livez" | "/readyz") => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "/metrics /livez /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_metrics_answer_and_nothing_else_does() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = Health { reached: Arc::default(), metrics };
        let status = |method: &str, path: &str| answer(&health, method, path).status().as_u16();
        assert_eq!(status("GET", "/livez"), 200);
        assert_eq!(status("GET", "/readyz"), 503);
        health.reached.store(true, Ordering::Relaxed);
        assert_eq!(status("GET", "/readyz"), 200);
        assert_eq!(status("GET", "/metrics"), 200);
        assert_eq!(status("POST", "/metrics"), 405);
        assert_eq!(status("GET", "/v1/status"), 404);
    }
}
