struct Hits {
    map: Mutex<HashMap<String, u64>>,
}

async fn publish(key: &str, n: u64) {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

<<CELL>>

// Two at once on one thread, as in a LocalSet.
fn main() {
    let counted = within(Duration::from_secs(2), || {
        let hits = Hits { map: Mutex::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::join!(record(&hits, "a"), record(&hits, "a")) });
        hits.map.into_inner().unwrap()["a"]
    });
    verdict(counted == Some(2), format_args!("two at once on one thread: {counted:?} within 2 s"))
}
