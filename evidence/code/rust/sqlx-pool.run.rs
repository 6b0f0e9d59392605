use sqlx::{Executor, Postgres};

struct Order;

// Twelve that are inside a transaction at the same time, as far as the pool lets them.
async fn insert_order(db: impl Executor<'_, Database = Postgres>, order: &Order) -> sqlx::Result<i64> {
    let id = sqlx::query_scalar("INSERT INTO orders DEFAULT VALUES RETURNING id").fetch_one(db).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    id
}

async fn insert_event(db: impl Executor<'_, Database = Postgres>, id: i64) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO event VALUES ($1)").bind(id).execute(db).await.map(drop)
}

<<CELL>>

#[tokio::main]
async fn main() {
    let pool = connect(&std::env::var("DATABASE_URL").unwrap()).await.unwrap();
    for statement in ["CREATE TABLE orders (id bigserial PRIMARY KEY)", "CREATE TABLE event (id bigint)"] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let pool = pool.clone();
        tasks.spawn(async move { create(&pool, &Order).await });
    }
    let mut stored = 0;
    let all = async {
        while let Some(result) = tasks.join_next().await {
            stored += u32::from(result.unwrap().is_ok());
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    verdict(stored == 30, format_args!("30 orders at once: {stored} stored within 5 s"))
}
