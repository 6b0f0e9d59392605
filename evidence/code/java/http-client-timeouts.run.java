import java.net.http.HttpResponse.BodyHandlers;

class Code {
    <<CELL>>
}

/** A service that answers, one that never does, and one whose body comes byte by byte. */
class Main {
    static String url;

    static String ask(String path) {
        long start = System.nanoTime();
        var asked = Executors.newVirtualThreadPerTaskExecutor().submit(() -> new Code().price(URI.create(url + path)).body());
        String failure = Measure.failure(() -> asked.get(5, TimeUnit.SECONDS));
        boolean waits = !asked.isDone();
        return waits ? "still waits after 5 s" : "%s after %d s".formatted(failure, Math.round((System.nanoTime() - start) / 1e9));
    }

    public static void main(String[] args) {
        url = Measure.server(exchange -> {
            String path = exchange.getRequestURI().getPath();
            try {
                if (path.equals("/hangs")) Thread.sleep(10_000);
                exchange.sendResponseHeaders(200, 40);
                for (int i = 0; i < 40; i++) {
                    exchange.getResponseBody().write('1');
                    exchange.getResponseBody().flush();
                    if (path.equals("/drips")) Thread.sleep(250);
                }
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            exchange.close();
        });
        String answers = ask("/");
        String hangs = ask("/hangs");
        String drips = ask("/drips");
        Measure.verdict(answers.startsWith("none") && !hangs.contains("still") && !drips.startsWith("none") && !drips.contains("still"),
            "failure: service that answers %s, that hangs %s, whose body drips %s", answers, hangs, drips);
    }
}
