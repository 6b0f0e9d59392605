use tokio::sync::mpsc::error::TrySendError;

#[derive(Deserialize)]
struct Job {
    text: String,
}

async fn process(job: Job) {
    std::future::pending().await // a consumer that stands still
}

<<CELL>>

#[tokio::main]
async fn main() {
    let (tx, before) = (start(), resident());
    let mut accepted = 0;
    for _ in 0..10_000 {
        let job = Job { text: "x".repeat(10_000) };
        accepted += u32::from(submit(State(tx.clone()), Json(job)).await == StatusCode::ACCEPTED);
    }
    let grown = resident().saturating_sub(before) > 50;
    let said = format!("{accepted} of 10000 jobs of 10 kB accepted; grown by more than 50 MB: {grown}");
    verdict(accepted < 300 && !grown, said)
}
