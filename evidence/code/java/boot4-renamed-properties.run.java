<<CELL>>

/** The application starts with one key forgotten in the renaming, and with all keys. */
@Configuration(proxyBeanMethods = false)
@ComponentScan
class Main {
    static String start(String... properties) {
        return Measure.failure(() -> {
            Measure.application(Main.class, properties).close();
            return null;
        });
    }

    public static void main(String[] args) {
        String old = "spring.data.mongodb.uri=mongodb://db/shop";
        String renamed = "spring.mongodb.uri=mongodb://db/shop";
        String traces = "management.opentelemetry.tracing.export.otlp.endpoint=http://collector:4318/v1/traces";
        String forgotten = start(old, traces);
        String complete = start(renamed, traces);
        Measure.verdict(!forgotten.equals("none") && complete.equals("none"),
            "failure at start: with the key of Boot 3 %s, with all keys of Boot 4 %s", forgotten, complete);
    }
}
