class Code {
    static class InvalidRequest extends RuntimeException { }

    <<CELL>>
}
