class Code {
    record OrderPlaced(int id) { }
    static class InvalidOrderException extends RuntimeException { }
    interface Orders { void apply(OrderPlaced event); }
    Orders orders;
    ExecutorService executor;

    <<CELL>>
}
