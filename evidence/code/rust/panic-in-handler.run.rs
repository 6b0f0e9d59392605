use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

mod rest {
    use code::*;

    pub async fn page(Path(number): Path<String>) -> String {
        number.parse::<u64>().unwrap().to_string()
    }

    pub fn app() -> Router {
        Router::new().route("/pages/{number}", get(super::page))
    }
}
use rest::*;

<<CELL>>

// A number that is none, then one that is.
#[tokio::main]
async fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let port = served(app()).await;
    let (bad, good) =
        tokio::task::spawn_blocking(move || (ask(port, "GET /pages/abc", ""), ask(port, "GET /pages/1", ""))).await.unwrap();
    let problem = status(&bad) == 500 && bad.contains("application/problem+json");
    verdict(problem && status(&good) == 200, format_args!("/pages/abc: {}, then /pages/1: {}", status(&bad), status(&good)))
}
