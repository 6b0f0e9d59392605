//! Runs an axum router with every limit set: what is too much is refused at once, what was accepted is finished.
pub mod batch;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use http_body_util::LengthLimitError;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::{any::Any, convert::Infallible, error::Error, io, pin::pin, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::{select, sync::Semaphore, task::JoinHandle, time::sleep, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::catch_panic::CatchPanicLayer;

#[derive(Clone)]
pub struct Limits {
    pub connections: usize, // beyond them the kernel's backlog waits; times max_body + max_header is memory
    pub requests: usize,    // being handled at once, on all routes together
    pub max_header: usize,
    pub max_body: usize,
    pub header: Duration, // from the connection, or the answer before, to the end of the header
    pub body: Duration,
    pub request: Duration,   // for the handler, from the end of the body on
    pub ready_lag: Duration, // the three below stay under the grace period before SIGKILL
    pub drain: Duration,     // above body + request
    pub flush: Duration,
}

struct Gate {
    limits: Limits,
    permits: Semaphore,
    draining: CancellationToken,
}

/// Refused before anything was done: whoever asked may ask again, here or elsewhere.
pub fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response()
}

impl Gate {
    async fn pass(&self, request: Request, next: Next) -> Response {
        let limits = &self.limits;
        if self.permits.available_permits() == 0 {
            return busy(); // before the body is read: a refusal must be cheap
        }
        let (parts, body) = request.into_parts();
        if body.size_hint().lower() > limits.max_body as u64 {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        // Whoever sends slowly holds a connection, not a permit: a few such senders must not stop all others.
        let body = match timeout(limits.body, to_bytes(body, limits.max_body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(e)) if e.source().is_some_and(|e| e.is::<LengthLimitError>()) => {
                return StatusCode::PAYLOAD_TOO_LARGE.into_response();
            }
            Ok(Err(_)) => return StatusCode::BAD_REQUEST.into_response(),
            Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return busy();
        };
        let request = Request::from_parts(parts, Body::from(body));
        match timeout(limits.request, next.run(request)).await {
            Ok(response) => response,
            Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(), // not 503: whether it was done is unknown
        }
    }
}

async fn front(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = gate.pass(request, next).await;
    if gate.draining.is_cancelled() {
        let close = HeaderValue::from_static("close"); // told now, the client does not meet a closed connection later
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    StatusCode::INTERNAL_SERVER_ERROR.into_response() // the hook has logged it
}

/// Serves until SIGTERM or SIGINT. `writer` is the task of a `batch::Batcher` of which only the router has copies.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, writer: JoinHandle<()>) -> io::Result<()> {
    std::panic::set_hook(Box::new(|info| tracing::error!("{info}"))); // with file and line
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let draining = CancellationToken::new();
    let permits = Semaphore::new(limits.requests);
    let gate = Arc::new(Gate { limits: limits.clone(), permits, draining: draining.clone() });
    let ready = |State(gate): State<Arc<Gate>>| async move {
        if gate.draining.is_cancelled() { busy() } else { ().into_response() }
    };
    let probes = Router::new().route("/livez", get(|| async {})).route("/readyz", get(ready)).with_state(gate.clone());
    let router = router
        .layer(DefaultBodyLimit::disable()) // `max_body` stands instead of its 2 MB
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(gate, front))
        .merge(probes); // not limited: a busy service is alive

    let (closing, cut, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let stop = async {
        select! { _ = term.recv() => {}, _ = int.recv() => {} }
        draining.cancel(); // readiness fails; requests are served until the load balancers have noticed
        sleep(limits.ready_lag).await;
    };
    let mut writer = writer;
    let mut result = select! {
        never = accept(listener, router, limits.clone(), closing.clone(), cut.clone(), connections.clone()) => match never {},
        () = stop => Ok(()),
        _ = &mut writer => return Err(io::Error::other("the writer has ended")), // nothing can be stored any more
    };
    closing.cancel(); // the listener is closed already, dropped with `accept`
    connections.close();
    if timeout(limits.drain, connections.wait()).await.is_err() {
        result = Err(io::Error::other("requests were cut off"));
        cut.cancel();
    }
    // With the last connection the last copy of the router went, and with it the last sender: the writer empties its
    // queue and ends.
    match timeout(limits.flush, writer).await {
        Ok(Ok(())) => result,
        _ => Err(io::Error::other("the queue was not written")),
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    closing: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
) -> Infallible {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(limits.max_header);
    loop {
        let slot = slots.clone().acquire_owned().await.expect("nobody closes it");
        let Ok((socket, _)) = listener.accept().await.inspect_err(|error| tracing::error!(%error, "accept")) else {
            sleep(Duration::from_millis(100)).await; // no file descriptor is free; to end here would end the service
            continue;
        };
        let connection = http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router.clone()));
        let (closing, cut) = (closing.clone(), cut.clone());
        connections.spawn(async move {
            let (_slot, mut connection) = (slot, pin!(connection));
            select! {
                _ = connection.as_mut() => return, // a client that went away is no news
                () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            select! { _ = connection => {}, () = cut.cancelled() => {} }
        });
    }
}
