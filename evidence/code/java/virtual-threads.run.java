class Code {
    record Report(long id) { }

    static class ReportClient {
        Report fetch(long id) {
            int now = busy.incrementAndGet();
            most.accumulateAndGet(now, Math::max);
            try {
                Thread.sleep(1000);
                return new Report(id);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            } finally {
                busy.decrementAndGet();
            }
        }
    }

    static final AtomicInteger busy = new AtomicInteger();
    static final AtomicInteger most = new AtomicInteger();
    ReportClient reportClient = new ReportClient();

    <<CELL>>
}

/** A hundred requests at once, each on a virtual thread, for reports of 1 s each; then one more. */
class Main {
    public static void main(String[] args) throws Exception {
        var code = new Code();
        var refused = new AtomicInteger();
        var longest = new AtomicLong();
        try (var requests = Executors.newVirtualThreadPerTaskExecutor()) {
            for (int i = 0; i < 100; i++) {
                requests.submit(() -> {
                    long start = System.nanoTime();
                    try {
                        code.report(1);
                    } catch (RejectedExecutionException e) {
                        refused.incrementAndGet();
                    }
                    return longest.accumulateAndGet(System.nanoTime() - start, Math::max);
                });
            }
        }
        long wait = Math.round(longest.get() / 1e9);
        String after = Measure.failure(() -> code.report(2));
        Measure.verdict(wait <= 2 && refused.get() == 80 && Code.most.get() == 20 && after.equals("none"),
            "at once %d, refused %d, longest request %d s; failure of the next request: %s", Code.most.get(), refused.get(), wait, after);
    }
}
