import org.springframework.http.client.JdkClientHttpRequestFactory;

record Stock(int pieces) { }

<<CELL>>

/** A service whose first two answers come too late, then fifty calls at once to one that takes 250 ms. */
@Configuration(proxyBeanMethods = false)
@ComponentScan
class Main {
    static final AtomicInteger calls = new AtomicInteger();
    static final AtomicInteger late = new AtomicInteger();

    @Bean
    RestClient rest() {
        String url = Measure.server(exchange -> {
            calls.incrementAndGet();
            try {
                Thread.sleep(late.getAndDecrement() > 0 ? 3000 : 250);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, 13);
            exchange.getResponseBody().write("{\"pieces\": 3}".getBytes());
            exchange.close();
        });
        var factory = new JdkClientHttpRequestFactory();
        factory.setReadTimeout(Duration.ofMillis(500));
        return RestClient.builder().baseUrl(url).requestFactory(factory).build();
    }

    static String call(Object client) throws Exception {
        for (var method : client.getClass().getMethods()) {
            if (method.isAnnotationPresent(Retryable.class) || method.getName().equals("read") || method.getName().equals("reserve")) {
                return Measure.failure(() -> {
                    try {
                        return method.invoke(client, "a");
                    } catch (java.lang.reflect.InvocationTargetException e) {
                        throw (Exception) e.getCause();
                    }
                });
            }
        }
        throw new IllegalStateException("no method");
    }

    public static void main(String[] args) throws Exception {
        var app = Measure.application(Main.class);
        var client = app.getBean(StockClient.class);
        try { // loads the classes, which takes longer than an answer may
            app.getBean(RestClient.class).get().uri("/").retrieve().body(Stock.class);
        } catch (RestClientException e) {
            System.err.println(e);
        }
        calls.set(0);
        late.set(2);
        String first = call(client);
        int tried = calls.getAndSet(0);
        var failures = new ConcurrentLinkedQueue<String>();
        try (var callers = Executors.newVirtualThreadPerTaskExecutor()) {
            for (int i = 0; i < 50; i++) callers.submit(() -> failures.add(call(client)));
        }
        int reached = calls.get();
        Measure.verdict(first.equals("none") && tried == 3 && reached == 20,
            "failure %s after %d tries; of 50 calls at once %d reach the service, the others: %s",
            first, tried, reached, failures.stream().filter(each -> !each.equals("none")).collect(Collectors.toSet()));
    }
}
