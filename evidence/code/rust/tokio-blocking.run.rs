fn check_password(password: &str, hash: &str) -> bool {
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {}
    password == hash
}

<<CELL>>

// Four logins on a runtime with one worker thread, beside a ticker of 10 ms.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let ticker = tokio::spawn(async {
        let (mut late, start) = (Duration::ZERO, Instant::now());
        while start.elapsed() < Duration::from_millis(1600) {
            let before = Instant::now();
            tokio::time::sleep(Duration::from_millis(10)).await;
            late = late.max(before.elapsed());
        }
        late
    });
    tokio::task::yield_now().await;
    let logins: Vec<_> = (0..4).map(|_| tokio::spawn(verify("a".into(), "a".into()))).collect();
    let mut right = 0;
    for login in logins {
        right += u32::from(login.await.unwrap().unwrap());
    }
    let late = ticker.await.unwrap();
    let stood = late > Duration::from_millis(600);
    verdict(right == 4 && !stood, format_args!("{right} of 4 logins right; the ticker stood still for over 600 ms: {stood}"))
}
