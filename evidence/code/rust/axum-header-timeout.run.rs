use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tower_http::timeout::TimeoutLayer;

async fn home() -> &'static str {
    "home"
}

async fn start(listener: TcpListener, app: Router) -> anyhow::Result<()> {
    <<CELL>>
    Ok(())
}

// A client that has sent half a header when 20 s have passed on the runtime's clock.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { start(listener, Router::new().route("/", get(home))).await.unwrap() });
    let served = tokio::task::spawn_blocking(move || status(&ask(port, "GET /", ""))).await.unwrap();
    let (sent, written) = tokio::sync::oneshot::channel();
    let client = tokio::task::spawn_blocking(move || {
        let mut socket = connect(port);
        socket.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        std::thread::sleep(Duration::from_millis(300)); // until the server has read it
        sent.send(()).unwrap();
        // closed, with or without an answer, or still waited for
        !matches!(socket.read(&mut [0; 512]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    });
    written.await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    let closed = client.await.unwrap();
    verdict(served == 200 && closed, format_args!("whole request: {served}; half a header after 20 s: closed {closed}"))
}
