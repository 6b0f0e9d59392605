use axum_extra::TypedHeader;
use axum_extra::headers::{Authorization, authorization::Bearer};
use axum_extra::typed_header::TypedHeaderRejection;

async fn file(Path(path): Path<String>) -> String {
    path
}

async fn render(id: Uuid, user: Option<TypedHeader<Authorization<Bearer>>>) -> Response {
    user.map_or("anonymous", |_| "known").into_response()
}

fn build() -> Router {
    <<CELL>>
    app
}

// Whether the router can be built at all.
fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let app = std::panic::catch_unwind(build).map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
    let app = match app {
        Ok(app) => app,
        Err(said) => verdict(false, format_args!("panics: {}", said.lines().next().unwrap_or_default())),
    };
    let answers = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let port = served(app).await;
        tokio::task::spawn_blocking(move || {
            let order = format!("GET /orders/{}", Uuid::nil());
            [
                ask(port, &order, "Authorization: Bearer t\r\n"),
                ask(port, &order, "Authorization: nonsense\r\n"),
                ask(port, "GET /files/a/b.txt", ""),
            ]
        })
        .await
        .unwrap()
    });
    let bodies = answers.map(|answer| answer.rsplit("\r\n").next().unwrap().to_owned());
    verdict(bodies == ["known", "anonymous", "a/b.txt"], bodies.join(", "))
}
