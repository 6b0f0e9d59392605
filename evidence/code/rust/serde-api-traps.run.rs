<<CELL>>

fn main() {
    let read = |text: &str| serde_json::from_str::<Patch>(text);
    let differ = read(r#"{"note":null}"#).unwrap().note != read("{}").unwrap().note;
    let null = read(r#"{"tags":null}"#).is_ok() && read("{}").is_ok();
    let typo = read(r#"{"notes":"x"}"#).is_err();
    let said = format!("null differs from missing: {differ}; tags null accepted: {null}; misspelt field refused: {typo}");
    verdict(differ && null && typo, said)
}
