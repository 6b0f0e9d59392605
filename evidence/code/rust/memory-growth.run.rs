use bytes::Bytes;

<<CELL>>

fn main() {
    let before = resident();
    let mut cache = HashMap::new();
    for id in 0..2000 {
        remember(&mut cache, id, &Bytes::from(vec![b'x'; 100_000]));
    }
    remember(&mut cache, 2000, &Bytes::from_static(b"short"));
    let grown = resident().saturating_sub(before) > 50;
    let said = format!("16 bytes kept of {} bodies of 100 kB; grown by more than 50 MB: {grown}", cache.len());
    verdict(!grown, said)
}
