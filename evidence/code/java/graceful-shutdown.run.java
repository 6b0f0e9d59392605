@Configuration(proxyBeanMethods = false)
class Code {
    <<CELL>>
}

/** Four tasks of 1 s run and eight more wait when the application is closed. */
@EnableAutoConfiguration(excludeName = {"org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
    "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration"})
@Import(Code.class)
class Main {
    public static void main(String[] args) throws Exception {
        var app = Measure.application(Main.class, "spring.lifecycle.timeout-per-shutdown-phase=2s");
        var executor = app.getBean("mailExecutor", ThreadPoolTaskExecutor.class);
        var done = new AtomicInteger();
        var interrupted = new AtomicInteger();
        for (int i = 0; i < 12; i++) {
            executor.execute(() -> {
                try {
                    Thread.sleep(1000);
                    done.incrementAndGet();
                } catch (InterruptedException e) {
                    interrupted.incrementAndGet();
                }
            });
        }
        Thread.sleep(200);
        long start = System.nanoTime();
        app.close();
        long seconds = Math.round((System.nanoTime() - start) / 1e9);
        Measure.verdict(done.get() == 12, "closed after %d s: of 12 tasks %d done, %d interrupted", seconds, done.get(), interrupted.get());
    }
}
