use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

static HANDLED: Mutex<Vec<String>> = Mutex::new(Vec::new());

async fn read_frame(reader: &mut DuplexStream) -> io::Result<Option<[u8; 4]>> {
    let mut frame = [0; 4];
    match reader.read_exact(&mut frame).await {
        Ok(_) => Ok(Some(frame)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

async fn handle(frame: [u8; 4]) -> anyhow::Result<()> {
    HANDLED.lock().unwrap().push(String::from_utf8_lossy(&frame).into_owned());
    Ok(())
}

async fn heartbeat() -> anyhow::Result<()> {
    Ok(())
}

async fn receive(mut reader: DuplexStream, mut ticks: tokio::time::Interval) -> anyhow::Result<()> {
    <<CELL>>
    Ok(())
}

// Twenty frames that arrive byte by byte, while a heartbeat ticks.
#[tokio::main]
async fn main() {
    let (mut writer, reader) = tokio::io::duplex(64);
    let sent: Vec<String> = (0..20).map(|n| format!("<{n:02}>")).collect();
    let bytes = sent.concat();
    tokio::spawn(async move {
        for byte in bytes.bytes() {
            writer.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    });
    receive(reader, tokio::time::interval(Duration::from_millis(10))).await.unwrap();
    let handled = HANDLED.lock().unwrap();
    let whole = sent.iter().filter(|frame| handled.contains(frame)).count();
    verdict(*handled == sent, format_args!("20 frames sent; handled as they were sent: {whole}"))
}
