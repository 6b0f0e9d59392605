#[derive(Serialize)]
struct Order {
    id: Uuid,
}

struct Orders;

struct App {
    orders: Orders,
}

impl Orders {
    async fn load(&self, id: Uuid) -> io::Result<Order> {
        if id.is_nil() { Err(io::Error::other("db.internal:5432 refused")) } else { Ok(Order { id }) }
    }
}

<<CELL>>

// A database that fails, as the client sees it.
#[tokio::main]
async fn main() {
    let app = Arc::new(App { orders: Orders });
    let router = Router::new().route("/orders/{id}", get(show)).layer(Extension(app.clone())).with_state(app);
    let port = served(router).await;
    let (failed, found) = tokio::task::spawn_blocking(move || {
        let path = |id: Uuid| format!("GET /orders/{id}");
        (ask(port, &path(Uuid::nil()), ""), ask(port, &path(Uuid::max()), ""))
    })
    .await
    .unwrap();
    let problem = failed.contains("application/problem+json") && !failed.contains("internal:5432");
    let good = status(&failed) == 500 && problem && status(&found) == 200;
    verdict(good, format_args!("database down: {} problem+json {problem}; else {}", status(&failed), status(&found)))
}
