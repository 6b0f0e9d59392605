import org.springframework.boot.persistence.autoconfigure.EntityScan;
import org.springframework.data.jpa.repository.config.EnableJpaRepositories;

<<CELL>>

/** An open order of DATABASE that is loaded and changed, then expired by the statement, then read again. */
@EnableAutoConfiguration
@EntityScan(basePackageClasses = Order.class)
@EnableJpaRepositories
class Main {
    public static void main(String[] args) {
        var app = Measure.application(Main.class);
        var orders = app.getBean(OrderRepository.class);
        var tx = app.getBean(TransactionTemplate.class);
        long id = orders.save(new Order()).getId();
        String seen = tx.execute(status -> {
            orders.findById(id).orElseThrow().setRisk(9);
            orders.expire(Instant.now());
            return orders.findById(id).orElseThrow().getStatus();
        });
        Order kept = orders.findById(id).orElseThrow();
        long other = orders.save(new Order()).getId();
        int before = orders.findById(other).orElseThrow().getVersion();
        tx.execute(status -> orders.expire(Instant.now()));
        int after = orders.findById(other).orElseThrow().getVersion();
        Measure.verdict(seen.equals("EXPIRED") && kept.getStatus().equals("EXPIRED") && kept.getRisk() == 9 && after > before,
            "read again in the transaction %s, after it %s with risk %d; versions of another order %d and %d",
            seen, kept.getStatus(), kept.getRisk(), before, after);
    }
}
