class Code {
    String issuer;

    <<CELL>>
}
