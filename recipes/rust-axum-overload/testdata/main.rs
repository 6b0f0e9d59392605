//! Takes events over HTTP; each limit comes from the environment, in milliseconds where it is a time.
use axum::extract::{Path, State};
use axum::routing::{get, put};
use axum::{Router, http::StatusCode};
use service::batch::{Batcher, Event, Failure, Settings};
use service::{Limits, serve};
use std::{env, process::ExitCode, time::Duration};
use tokio::net::TcpListener;

fn number(name: &str) -> usize {
    let text = env::var(name).unwrap_or_else(|_| panic!("{name} is missing"));
    text.parse().unwrap_or_else(|_| panic!("{name} is no number"))
}

fn time(name: &str) -> Duration {
    Duration::from_millis(number(name) as u64)
}

async fn store(State(batcher): State<Batcher>, Path(id): Path<String>, body: String) -> Result<StatusCode, Failure> {
    batcher.put(Event { id, body }).await.map(|()| StatusCode::CREATED)
}

async fn panics() -> StatusCode {
    panic!("as asked")
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let database = env::var("DATABASE_URL").expect("DATABASE_URL").parse().expect("a URL");
    let settings = Settings {
        queue: number("QUEUE"),
        batch: number("BATCH"),
        linger: time("LINGER"),
        attempt: time("ATTEMPT"),
        budget: time("BUDGET"),
        pause: time("PAUSE"),
    };
    let limits = Limits {
        connections: number("CONNECTIONS"),
        requests: number("REQUESTS"),
        max_header: number("MAX_HEADER"),
        max_body: number("MAX_BODY"),
        header: time("HEADER"),
        body: time("BODY"),
        request: time("REQUEST"),
        ready_lag: time("READY_LAG"),
        drain: time("DRAIN"),
        flush: time("FLUSH"),
    };
    let (batcher, writer) = Batcher::start(database, settings);
    let router = Router::new()
        .route("/events/{id}", put(store))
        .route("/echo", put(|body: String| async move { body.len().to_string() }))
        .route("/panic", get(panics))
        .route("/hang", get(std::future::pending::<()>))
        .with_state(batcher);
    let listener = TcpListener::bind(env::var("ADDR").expect("ADDR")).await.expect("a free port");
    match serve(listener, router, limits, writer).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "ended");
            ExitCode::FAILURE
        }
    }
}
