use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

async fn start(
    listener: TcpListener, app: Router, ready: Arc<AtomicBool>, tracker: TaskTracker, pool: PgPool,
) -> anyhow::Result<()> {
    <<CELL>>
    Ok(())
}

#[tokio::main]
async fn service(port: u16) {
    let tracker = TaskTracker::new();
    let (ready, background) = (Arc::new(AtomicBool::new(true)), tracker.clone());
    let app = Router::new()
        .route("/slow", get(|| async { tokio::time::sleep(Duration::from_millis(1500)).await }))
        .route("/ready", get({
            let ready = ready.clone();
            move || async move { if ready.load(Ordering::Relaxed) { 200 } else { 503 }.to_string() }
        }))
        .route("/background", get(move || async move {
            background.spawn(async {
                tokio::time::sleep(Duration::from_secs(7)).await;
                println!("work done");
            });
        }));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost").unwrap();
    start(listener, app, ready, tracker, pool).await.unwrap();
}

// SIGTERM while a request and a task in the background run.
fn main() {
    if child() {
        return service(std::env::var("PORT").unwrap().parse().unwrap());
    }
    let port = free_port();
    let process = again(&[("PORT", &port.to_string())]);
    ask(port, "GET /background", "");
    let slow = std::thread::spawn(move || status(&ask(port, "GET /slow", "")));
    std::thread::sleep(Duration::from_millis(300));
    unsafe { libc::kill(process.id() as i32, libc::SIGTERM) };
    std::thread::sleep(Duration::from_millis(300));
    let meanwhile = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let ready = meanwhile.then(|| ask(port, "GET /ready", "").ends_with("200"));
    let (slow, output) = (slow.join().unwrap(), process.wait_with_output().unwrap());
    let (done, code) = (String::from_utf8_lossy(&output.stdout).contains("work done"), output.status.code());
    let good = slow == 200 && ready == Some(false) && done && code == Some(0);
    verdict(good, format_args!("request in flight: {slow}; ready: {ready:?}; task done: {done}; exit {code:?}"))
}
