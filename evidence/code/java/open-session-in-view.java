class Code {
    interface OrderRepository extends JpaRepository<Order, Long> {
        @EntityGraph(attributePaths = "items")
        Optional<Order> findWithItemsById(long id);
    }
    interface RiskClient { int score(long id); }
    OrderRepository orders;
    RiskClient riskClient;
    TransactionTemplate readOnly;

    <<CELL>>
}
