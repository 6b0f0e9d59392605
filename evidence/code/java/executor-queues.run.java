class Code {
    <<CELL>>
}

/** Five hundred tasks of 300 ms at once. */
class Main {
    public static void main(String[] args) throws Exception {
        var pool = (ThreadPoolExecutor) new Code().reports;
        int refused = 0;
        for (int i = 0; i < 500; i++) {
            try {
                pool.execute(() -> {
                    try {
                        Thread.sleep(300);
                    } catch (InterruptedException e) {
                        Thread.currentThread().interrupt();
                    }
                });
            } catch (RejectedExecutionException e) {
                refused++;
            }
        }
        int threads = pool.getLargestPoolSize();
        Measure.verdict(threads == pool.getMaximumPoolSize() && refused > 0, "threads %d of at most %d, waiting %d, refused %d",
            threads, pool.getMaximumPoolSize(), pool.getQueue().size(), refused);
    }
}
