use tracing::Instrument;

#[derive(Debug)]
struct Card {
    number: &'static str,
}

struct Gateway;

impl Gateway {
    async fn charge(&self, card: &Card) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

async fn send_receipt(id: Uuid) {
    tracing::info!("receipt");
}

<<CELL>>

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// A payment, and another request on the same thread that logs while the gateway is waited for.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let other = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tracing::info!("other");
    };
    let (paid, ()) = tokio::join!(pay(Uuid::nil(), Card { number: "4242424242424242" }, &Gateway), other);
    paid.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let inside = |word: &str| text.lines().any(|line| line.ends_with(word) && line.contains("pay{"));
    let (card, other, receipt) = (text.contains("4242"), inside("other"), inside("receipt"));
    let said = format!("card in the log: {card}; another request inside the span: {other}; receipt inside: {receipt}");
    verdict(!card && !other && receipt, said)
}
