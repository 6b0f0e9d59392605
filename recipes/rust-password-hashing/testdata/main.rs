//! A login over HTTP, with what the test must see; one worker thread, so that whatever blocks it shows at once.
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, serve};
use passwords::{Failure, Passwords, Settings};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::{env, time::Duration};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval};

#[derive(Default)]
struct Seen {
    stored: HashMap<String, String>,
    longest: Duration, // that the ticker was late
    gone: usize,       // handlers dropped before their end
}

#[derive(Clone)]
struct App {
    passwords: Passwords,
    seen: Arc<Mutex<Seen>>,
}

struct Gone(Option<Arc<Mutex<Seen>>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(seen) = &self.0 {
            seen.lock().unwrap().gone += 1;
        }
    }
}

fn answer(failure: Failure) -> Response {
    match failure {
        Failure::Busy => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response(),
        Failure::TooLong => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Failure::Broken(error) => {
            eprintln!("broken hash: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Failure::Stopped => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn login(State(app): State<App>, Path(user): Path<String>, password: String) -> Result<StatusCode, Response> {
    let mut gone = Gone(Some(app.seen.clone()));
    let stored = app.seen.lock().unwrap().stored.get(&user).cloned();
    let checked = app.passwords.check(&password, stored.as_deref()).await;
    gone.0 = None;
    let checked = checked.map_err(answer)?;
    if let Some(renewed) = checked.renewed {
        let mut seen = app.seen.lock().unwrap();
        if seen.stored.get(&user) == stored.as_ref() {
            seen.stored.insert(user, renewed);
        }
    }
    Ok(if checked.right { StatusCode::OK } else { StatusCode::UNAUTHORIZED })
}

async fn register(State(app): State<App>, Path(user): Path<String>, password: String) -> Result<StatusCode, Response> {
    let hash = app.passwords.hash(&password).await.map_err(answer)?;
    app.seen.lock().unwrap().stored.insert(user, hash);
    Ok(StatusCode::CREATED)
}

async fn put_stored(State(app): State<App>, Path(user): Path<String>, hash: String) {
    app.seen.lock().unwrap().stored.insert(user, hash);
}

async fn get_stored(State(app): State<App>, Path(user): Path<String>) -> String {
    app.seen.lock().unwrap().stored[&user].clone()
}

async fn state(State(app): State<App>) -> String {
    let seen = app.seen.lock().unwrap();
    format!("{} {} {}", app.passwords.free(), seen.gone, seen.longest.as_millis())
}

async fn tick(seen: Arc<Mutex<Seen>>) {
    let every = Duration::from_millis(5);
    let (mut ticks, mut last) = (interval(every), Instant::now());
    loop {
        ticks.tick().await;
        let late = last.elapsed().saturating_sub(every);
        last = Instant::now();
        let mut seen = seen.lock().unwrap();
        seen.longest = seen.longest.max(late);
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() {
    let number = |name: &str| env::var(name).expect(name).parse::<u32>().expect(name);
    let passwords = Passwords::new(Settings {
        memory_kib: number("MEMORY_KIB"),
        passes: number("PASSES"),
        lanes: 1,
        most_memory_kib: 64 << 10,
        most_passes: 1000,
        running: number("RUNNING") as usize,
        waiting: number("WAITING") as usize,
        wait: Duration::from_millis(number("WAIT").into()),
        longest: 1024,
    });
    let app = App { passwords: passwords.expect("possible parameters"), seen: Arc::default() };
    tokio::spawn(tick(app.seen.clone()));
    let router = Router::new()
        .route("/login/{user}", post(login))
        .route("/users/{user}", post(register))
        .route("/stored/{user}", get(get_stored).put(put_stored))
        .route("/state", get(state))
        .route("/health", get(async || {}))
        .with_state(app);
    let listener = TcpListener::bind(env::var("ADDR").expect("ADDR")).await.expect("a free port");
    serve(listener, router).await.expect("no end");
}
