class Code {
    static class InvalidRequest extends RuntimeException { }

    <<CELL>>
}

/** Thirty calls that fail, through a breaker of the application's registry. */
@EnableAutoConfiguration(excludeName = {"org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
    "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration"})
class Main {
    public static void main(String[] args) {
        var application = new Code().service(Main.class);
        application.setWebApplicationType(WebApplicationType.NONE);
        application.setBannerMode(Banner.Mode.OFF);
        var app = application.run();
        var breaker = app.getBean(CircuitBreakerRegistry.class).circuitBreaker("stock");
        int called = 0;
        for (int i = 0; i < 30; i++) {
            if (!breaker.tryAcquirePermission()) continue;
            called++;
            breaker.onError(1, TimeUnit.MILLISECONDS, new IOException());
        }
        boolean metrics = app.getBean(io.micrometer.core.instrument.MeterRegistry.class).find("resilience4j.circuitbreaker.state").meters().size() > 0;
        Measure.verdict(called == 20 && metrics, "of 30 calls that fail %d are made, breaker %s, slow from %d s, metrics %b", called,
            breaker.getState(), breaker.getCircuitBreakerConfig().getSlowCallDurationThreshold().toSeconds(), metrics);
    }
}
