import org.springframework.boot.persistence.autoconfigure.EntityScan;

class Code {
    <<CELL>>
}

/** Five chunks of 400 rows for DATABASE; how many inserts are prepared, how many objects does a session hold? */
@EnableAutoConfiguration
@EntityScan(basePackageClasses = Code.class)
class Main {
    public static void main(String[] args) {
        var app = Measure.application(Main.class, "spring.jpa.properties.hibernate.jdbc.batch_size=50");
        var factory = app.getBean(EntityManagerFactory.class).unwrap(SessionFactory.class);
        var chunks = IntStream.range(0, 5).mapToObj(i -> Stream.generate(Code.Line::new).limit(400).toList()).toList();
        factory.getStatistics().clear();
        new Code().importAll(factory, chunks.iterator());
        var statistics = factory.getStatistics();
        long statements = statistics.getPrepareStatementCount();
        long rows = factory.fromSession(session -> session.createSelectionQuery("select count(*) from Code$Line", Long.class).getSingleResult());
        Measure.verdict(rows == 2000 && statements < 200, "rows %d, statements prepared %d, transactions %d",
            rows, statements, statistics.getTransactionCount());
    }
}
