use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row};

struct Item {
    id: String,
    name: String,
}

impl sqlx::FromRow<'_, PgRow> for Item {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self { id: row.try_get("id")?, name: row.try_get("name")? })
    }
}

async fn find(pool: PgPool, ids: &[String], sort: &str) -> anyhow::Result<Vec<Item>> {
    <<CELL>>
    Ok(items)
}

// An id, no id, and ids and an order that hold SQL.
#[tokio::main]
async fn main() {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL").unwrap()).await.unwrap();
    for statement in [
        "CREATE TABLE item (id text PRIMARY KEY, name text, price int, created_at timestamptz DEFAULT now())",
        "CREATE TABLE secret (word text)",
        "INSERT INTO item VALUES ('a', 'lamp', 3), ('b', 'rug', 1)",
        "INSERT INTO secret VALUES ('hunter2')",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let found = |items: anyhow::Result<Vec<Item>>| match items {
        Ok(items) => items.into_iter().map(|item| item.name).collect::<Vec<_>>().join("+"),
        Err(_) => "error".to_owned(),
    };
    let both = found(find(pool.clone(), &["a".into(), "b".into()], "price").await);
    let none = found(find(pool.clone(), &[], "price").await);
    let hostile = ["x') UNION SELECT '', word FROM secret --".to_owned()];
    let leaked = found(find(pool.clone(), &hostile, "id").await);
    let sorted = found(find(pool.clone(), &["a".into()], "(SELECT 1 / 0)").await);
    let said = format!("two ids: {both:?}; none: {none:?}; id with SQL: {leaked:?}; order with SQL: {sorted:?}");
    verdict(both == "rug+lamp" && none.is_empty() && leaked.is_empty() && sorted == "lamp", said)
}
