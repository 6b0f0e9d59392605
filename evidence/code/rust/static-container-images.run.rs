fn build() -> anyhow::Result<reqwest::Client> {
    <<CELL>>
    Ok(client)
}

// Somebody in between with a certificate of his own, and no bundle of roots on the machine.
fn main() {
    unsafe {
        std::env::set_var("SSL_CERT_FILE", "/nonexistent");
        std::env::set_var("SSL_CERT_DIR", "/nonexistent");
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![own.cert.der().clone()], key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut socket = socket.unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut socket);
            if stream.read(&mut [0; 2048]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = match build() {
            Ok(client) => client,
            Err(error) => verdict(false, format_args!("no client: {error:#}")),
        };
        let answer = client.get(url).send().await;
        let said = answer.as_ref().map_or_else(|error| format!("{:#}", anyhow::anyhow!("{error:?}")), |_| "200".into());
        let refused = said.contains("UnknownIssuer");
        let outcome = if answer.is_ok() { "trusted" } else if refused { "refused: UnknownIssuer" } else { &said };
        verdict(refused, format_args!("without a bundle the client is built; a forged certificate is {outcome}"))
    })
}
