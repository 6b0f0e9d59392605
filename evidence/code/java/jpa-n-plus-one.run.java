import org.springframework.boot.persistence.autoconfigure.EntityScan;
import org.springframework.data.jpa.repository.config.EnableJpaRepositories;

<<CELL>>

/** A page of DATABASE with twenty orders, one of them without items, and a page with none. */
@EnableAutoConfiguration
@EntityScan(basePackageClasses = Order.class)
@EnableJpaRepositories(considerNestedRepositories = true)
class Main {
    public static void main(String[] args) {
        var app = Measure.application(Main.class);
        var orders = app.getBean(OrderRepository.class);
        for (int i = 0; i < 30; i++) orders.save(i == 3 ? Order.with() : Order.with("a", "b"));
        var statistics = app.getBean(EntityManagerFactory.class).unwrap(SessionFactory.class).getStatistics();
        var tx = app.getBean(TransactionTemplate.class);
        statistics.clear();
        var items = tx.execute(status -> orders.page("OPEN", PageRequest.of(0, 20)).stream().map(each -> each.getItems().size()).toList());
        long statements = statistics.getPrepareStatementCount();
        int none = orders.page("GONE", PageRequest.of(0, 20)).size();
        Measure.verdict(statements == 2 && items.size() == 20 && none == 0, "statements %d, orders %d, items %d; empty page %d",
            statements, items.size(), items.stream().mapToInt(each -> each).sum(), none);
    }
}
