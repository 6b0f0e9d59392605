fn serve(prices: &str) -> anyhow::Result<()> {
    Ok(())
}

<<CELL>>

// What the log has when a file is not there.
fn main() {
    let chain = format!("{:#}", start("/srv/prices.csv").unwrap_err());
    let causes = chain.matches("No such file").count();
    verdict(chain.contains("/srv/prices.csv") && causes == 1, chain)
}
