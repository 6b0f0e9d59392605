//! What cells and programs share: the names that most import, a verdict, a child process, plain requests.

pub use anyhow::Context;
pub use axum::Router;
pub use axum::extract::{Extension, Json, Path, State};
pub use axum::http::header::CONTENT_TYPE;
pub use axum::http::{Method, StatusCode};
pub use axum::response::{IntoResponse, Response};
pub use axum::routing::{get, post};
pub use serde::{Deserialize, Deserializer, Serialize};
pub use sqlx::postgres::{PgPool, PgPoolOptions};
pub use std::any::Any;
pub use std::collections::HashMap;
pub use std::io::{self, Read, Write};
pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub use std::sync::{Arc, LazyLock, Mutex, RwLock};
pub use std::time::{Duration, Instant};
pub use tokio::net::TcpListener;
pub use tokio::sync::{Semaphore, mpsc};
pub use uuid::Uuid;

/// Prints what was measured and ends the program: with 0 when the cell does what the row promises, else with 1.
pub fn verdict(good: bool, said: impl std::fmt::Display) -> ! {
    println!("{said}");
    std::process::exit(if good { 0 } else { 1 })
}

/// This program started once more, with CODE_CHILD set; its output is kept.
pub fn again(variables: &[(&str, &str)]) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .envs(variables.iter().copied())
        .env("CODE_CHILD", "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether this is the process that `again` has started.
pub fn child() -> bool {
    std::env::var_os("CODE_CHILD").is_some()
}

/// The result of what another thread does, or None when it takes longer.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || tx.send(work()));
    rx.recv_timeout(limit).ok()
}

/// A port of the loopback interface on which nobody listens just now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A connection to the port, once somebody listens there.
pub fn connect(port: u16) -> std::net::TcpStream {
    for _ in 0..500 {
        if let Ok(socket) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            return socket;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody listens on {port}")
}

/// What a server answers to a request ("GET /path", further headers) over a connection of its own: status line, head
/// and body as they came, or nothing when it closed the connection.
pub fn ask(port: u16, request: &str, headers: &str) -> String {
    let mut socket = connect(port);
    write!(socket, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer, or 0 when there was none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|each| each.parse().ok()).unwrap_or(0)
}

/// The router served on a free port of the loopback interface.
pub async fn served(app: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// Megabytes of memory that the process holds.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
