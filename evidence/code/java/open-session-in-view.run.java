import org.springframework.boot.persistence.autoconfigure.EntityScan;
import org.springframework.data.jpa.repository.config.EnableJpaRepositories;

interface OrderRepository extends JpaRepository<Order, Long> {
    @EntityGraph(attributePaths = "items")
    Optional<Order> findWithItemsById(long id);
}

@RestController
class Code {
    static final String CELL = """
        <<CELL>>
        """;

    interface RiskClient { int score(long id); }

    final OrderRepository orders;
    final HikariDataSource pool;
    final TransactionTemplate readOnly;
    final RiskClient riskClient = this::score;
    volatile int held;

    Code(OrderRepository orders, HikariDataSource pool, TransactionTemplate readOnly) {
        this.orders = orders;
        this.pool = pool;
        this.readOnly = readOnly;
    }

    int score(long id) {
        held = pool.getHikariPoolMXBean().getActiveConnections();
        return 3;
    }

    <<CELL>>
}

/** An order of DATABASE with two items, asked for over HTTP; how many connections are held during the remote call? */
@EnableAutoConfiguration(excludeName = {"org.springframework.boot.security.autoconfigure.web.servlet.ServletWebSecurityAutoConfiguration",
    "org.springframework.boot.security.autoconfigure.SecurityAutoConfiguration",
    "org.springframework.boot.security.autoconfigure.actuate.web.servlet.ManagementWebSecurityAutoConfiguration"})
@EntityScan(basePackageClasses = Order.class)
@EnableJpaRepositories
@Import(Code.class)
class Main {
    public static void main(String[] args) throws Exception {
        var app = Measure.web(Main.class, Measure.properties(Code.CELL));
        long id = app.getBean(OrderRepository.class).save(Order.with("a", "b")).getId();
        String url = "http://127.0.0.1:" + app.getEnvironment().getProperty("local.server.port") + "/orders/" + id;
        var statistics = app.getBean(EntityManagerFactory.class).unwrap(SessionFactory.class).getStatistics();
        statistics.clear();
        int status = Measure.status(url);
        var code = app.getBean(Code.class);
        Measure.verdict(status == 200 && code.held == 0, "status %d, statements %d, connections held during the remote call %d",
            status, statistics.getPrepareStatementCount(), code.held);
    }
}
