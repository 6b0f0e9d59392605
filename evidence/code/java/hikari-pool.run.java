@Configuration(proxyBeanMethods = false)
class Code {
    <<CELL>>
}

/** Callers of DATABASE take connections until they get no more; PostgreSQL has 100. */
@EnableAutoConfiguration
@Import(Code.class)
class Main {
    public static void main(String[] args) throws Exception {
        var app = Measure.application(Main.class);
        var pool = app.getBean(HikariDataSource.class);
        var callers = Executors.newVirtualThreadPerTaskExecutor();
        int taken = 0;
        String failure = "none";
        boolean waits = false;
        while (failure.equals("none") && !waits) {
            var call = callers.submit((Callable<?>) pool::getConnection);
            failure = Measure.failure(() -> call.get(6, TimeUnit.SECONDS));
            waits = !call.isDone();
            taken += failure.equals("none") ? 1 : 0;
        }
        Measure.verdict(!waits && taken == 10, "connections taken %d; the next caller %s", taken,
            waits ? "still waits after 6 s" : "fails with " + failure + " within 6 s");
    }
}
