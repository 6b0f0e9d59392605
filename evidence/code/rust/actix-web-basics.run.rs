use actix_web::{App, HttpServer, web};

struct AppState {
    pool: PgPool,
    hits: AtomicU64,
}

async fn create(state: web::Data<AppState>) -> String {
    sqlx::query("SELECT 1").execute(&state.pool).await.unwrap();
    (state.hits.fetch_add(1, Ordering::Relaxed) + 1).to_string()
}

async fn start(url: String, address: (&'static str, u16)) -> anyhow::Result<()> {
    <<CELL>>
    Ok(())
}

// Forty requests, each over a connection of its own; then the last number that a client was told.
fn main() {
    let (port, url) = (free_port(), std::env::var("DATABASE_URL").unwrap());
    std::thread::spawn(move || actix_web::rt::System::new().block_on(start(url, ("127.0.0.1", port))).unwrap());
    let body = |answer: String| answer.rsplit("\r\n").next().unwrap().parse::<u64>().unwrap();
    let numbers: Vec<u64> = (0..40).map(|_| body(ask(port, "POST /orders", "Content-Length: 0\r\n"))).collect();
    let highest = *numbers.iter().max().unwrap();
    verdict(highest == 40, format_args!("40 requests, the counter's highest answer is {highest}"))
}
