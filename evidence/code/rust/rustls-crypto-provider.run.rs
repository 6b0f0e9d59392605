use rustls::pki_types::{CertificateDer, PrivateKeyDer};

mod cell {
    use super::*;

    static SELF_SIGNED: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());

    fn certs() -> anyhow::Result<Vec<CertificateDer<'static>>> {
        Ok(vec![SELF_SIGNED.cert.der().clone()])
    }

    fn key() -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::try_from(SELF_SIGNED.signing_key.serialize_der()).map_err(anyhow::Error::msg)
    }

    async fn serve(config: rustls::ServerConfig) -> anyhow::Result<()> {
        config.crypto_provider().kx_groups.first().context("no groups")?;
        Ok(())
    }

    <<CELL>>

    pub fn start() -> anyhow::Result<()> {
        main()
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    match std::panic::catch_unwind(cell::start) {
        Ok(result) => verdict(result.is_ok(), format_args!("starts: {result:?}")),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            verdict(false, format_args!("panics: {}", said.unwrap_or("?").trim().lines().next().unwrap_or_default()))
        }
    }
}
