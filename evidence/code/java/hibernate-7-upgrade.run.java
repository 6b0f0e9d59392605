import org.springframework.boot.persistence.autoconfigure.EntityScan;

class Code {
    static final Logger log = LoggerFactory.getLogger(Code.class);
    final TransactionTemplate tx;
    final EntityManager em;

    Code(TransactionTemplate tx, EntityManager em) {
        this.tx = tx;
        this.em = em;
    }

    <<CELL>>
}

/** A row of DATABASE that another transaction has locked, one that is free, and one that is not there. */
@EnableAutoConfiguration
@EntityScan(basePackageClasses = Stock.class)
@Import(Code.class)
class Main {
    public static void main(String[] args) throws Exception {
        var app = Measure.application(Main.class, "spring.datasource.hikari.connection-init-sql=set lock_timeout = '500ms'");
        var code = app.getBean(Code.class);
        var tx = app.getBean(TransactionTemplate.class);
        var em = app.getBean(EntityManager.class);
        tx.executeWithoutResult(status -> em.persist(new Stock(1, 5)));
        var locked = new CountDownLatch(1);
        var end = new CountDownLatch(1);
        Thread.startVirtualThread(() -> tx.executeWithoutResult(status -> {
            em.find(Stock.class, 1L, LockModeType.PESSIMISTIC_WRITE);
            locked.countDown();
            try {
                end.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        locked.await();
        var whileLocked = new String[1];
        String failure = Measure.failure(() -> whileLocked[0] = String.valueOf(code.reserve(1)));
        end.countDown();
        var free = new String[1];
        String failureFree = Measure.failure(() -> free[0] = String.valueOf(code.reserve(1)));
        var absent = new String[1];
        String failureAbsent = Measure.failure(() -> absent[0] = String.valueOf(code.reserve(2)));
        Measure.verdict("false".equals(whileLocked[0]) && "true".equals(free[0]) && "false".equals(absent[0]),
            "locked row: reserved %s, failure %s; free row: %s, %s; no row: %s, %s",
            whileLocked[0], failure, free[0], failureFree, absent[0], failureAbsent);
    }
}
