#[derive(Deserialize)]
struct Order {
    id: u64,
}

async fn fetch(url: &str) -> anyhow::Result<Order> {
    <<CELL>>
    Ok(order)
}

static TRIES: AtomicU64 = AtomicU64::new(0);

// A service that fails with JSON, that is busy once, that hangs; it stands behind a proxy, so that it has the name.
fn main() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    unsafe { std::env::set_var("http_proxy", format!("http://{}", listener.local_addr().unwrap())) };
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                let length = socket.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]);
                let status = match request.split(' ').nth(1).unwrap_or_default().rsplit('/').next().unwrap() {
                    "hangs" => return std::thread::sleep(Duration::from_secs(60)),
                    "busy" if TRIES.fetch_add(1, Ordering::Relaxed) == 0 => "503 Busy",
                    "busy" => "200 OK",
                    _ => "500 Broken",
                };
                let _ = write!(socket, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{{\"id\":0}}");
            });
        }
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let failed = fetch("http://api.example.com/fails").await.is_err();
        let busy = fetch("http://api.example.com/busy").await.is_ok();
        let tries = TRIES.load(Ordering::Relaxed);
        let start = Instant::now();
        let hung = tokio::time::timeout(Duration::from_secs(12), fetch("http://api.example.com/hangs")).await.is_err();
        let good = failed && busy && tries == 2 && !hung;
        let said = format!("500 is an error: {failed}; tries when busy once: {tries}; given up within 12 s: {}", !hung);
        verdict(good, said)
    })
}
