import org.springframework.jdbc.core.simple.JdbcClient;

class ImportException extends Exception { }

@Repository
class OrderTable {
    final JdbcClient jdbc;

    OrderTable(JdbcClient jdbc) {
        this.jdbc = jdbc;
    }

    void insert(Order order) {
        jdbc.sql("insert into placed values (?)").param(order.getStatus()).update();
    }
}

@Repository
class StockTable {
    void reserve(Order order) throws ImportException {
        if (order.getStatus().equals("too many")) throw new ImportException();
    }
}

<<CELL>>

/** Three orders for DATABASE, for the second of which there is no stock. */
@EnableAutoConfiguration
@ComponentScan
class Main {
    static Order order(String status) {
        var order = new Order();
        order.setStatus(status);
        return order;
    }

    public static void main(String[] args) {
        var app = Measure.application(Main.class);
        var jdbc = app.getBean(JdbcClient.class);
        jdbc.sql("create table placed (status text)").update();
        var service = app.getBean(ImportService.class);
        String failure = Measure.failure(() -> {
            service.importAll(List.of(order("first"), order("too many"), order("third")));
            return null;
        });
        var rows = jdbc.sql("select status from placed order by 1").query(String.class).list();
        Measure.verdict(failure.equals("ImportException") && rows.equals(List.of("first")), "failure %s; orders in the table: %s", failure, rows);
    }
}
