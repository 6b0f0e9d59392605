fn load() -> u32 {
    7
}

<<CELL>>

fn main() {
    let got = within(Duration::from_secs(2), || get_or_init(&RwLock::new(None)));
    verdict(got == Some(7), format_args!("an empty cell: {got:?} within 2 s"))
}
