package payments;

import static org.springframework.core.NestedExceptionUtils.getMostSpecificCause;

import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import java.net.URI;
import java.time.Duration;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.event.EventListener;
import org.springframework.dao.DataIntegrityViolationException;
import org.springframework.kafka.config.KafkaListenerEndpointRegistry;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.event.ConsumerStoppedEvent;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer.HeaderNames.HeadersToAdd;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.listener.RetryListener;
import org.springframework.kafka.support.KafkaUtils;
import org.springframework.util.backoff.ExponentialBackOff;
import org.springframework.util.backoff.FixedBackOff;

@Configuration(proxyBeanMethods = false)
@EnableConfigurationProperties(Listening.Settings.class)
class Listening {
    private static final Logger log = LoggerFactory.getLogger(Listening.class);

    /** What no repetition will mend: goes to the dead letters at once. */
    static class BadEvent extends RuntimeException {
        private static final long serialVersionUID = 1L;
        BadEvent(String why) { super(why); }
    }

    /** No fault of the record's, which waits for as long as it takes. */
    static class Outage extends RuntimeException {
        private static final long serialVersionUID = 1L;
        // Suppressed and not the cause, because the error handler shows the back-off function the root cause only.
        Outage(Exception why) { super(why.toString()); addSuppressed(why); }
    }

    @ConfigurationProperties("payments")
    record Settings(URI rates, Duration deadline, Duration firstRetry, Duration retries, Duration open) {}

    @Bean
    CircuitBreaker breaker(Settings settings, KafkaListenerEndpointRegistry registry) {
        var breaker = CircuitBreaker.of("rates", CircuitBreakerConfig.custom()
                .slidingWindowSize(10).minimumNumberOfCalls(3).permittedNumberOfCallsInHalfOpenState(1)
                .waitDurationInOpenState(settings.open())
                .automaticTransitionFromOpenToHalfOpenEnabled(true) // a paused container makes no call that would do it
                .ignoreExceptions(BadEvent.class).build());
        breaker.getEventPublisher().onStateTransition(event -> {
            var container = registry.getListenerContainer("payments");
            if (container == null) return;
            if (event.getStateTransition().getToState() == CircuitBreaker.State.OPEN) container.pause();
            else container.resume();
        });
        return breaker;
    }

    @Bean
    DefaultErrorHandler errorHandler(KafkaTemplate<Object, Object> template, Settings settings,
            @Value("${spring.kafka.consumer.max-poll-records}") int records,
            @Value("${spring.kafka.consumer.max-poll-interval}") Duration interval,
            @Value("${spring.transaction.default-timeout}") Duration transaction,
            @Value("${spring.datasource.hikari.connection-timeout}") Duration connection) {
        var record = settings.deadline().plus(transaction).plus(connection);
        if (record.multipliedBy(records).plus(settings.retries()).compareTo(interval) >= 0)
            throw new IllegalArgumentException("slow records would exceed max-poll-interval");
        var recoverer = new DeadLetterPublishingRecoverer(template);
        // Kilobytes in each record that may make it too large for the topic, and may quote payloads.
        recoverer.excludeHeader(HeadersToAdd.EX_STACKTRACE);
        var backOff = new ExponentialBackOff(settings.firstRetry().toMillis(), 2);
        backOff.setMaxElapsedTime(settings.retries().toMillis());
        var handler = new DefaultErrorHandler(recoverer, backOff);
        handler.addNotRetryableExceptions(BadEvent.class, DataIntegrityViolationException.class);
        // Without this a retry is one line without its reason, and a dead letter none at all.
        handler.setRetryListeners(new RetryListener() {
            @Override
            public void failedDelivery(ConsumerRecord<?, ?> failed, Exception e, int attempt) {
                log.warn("{} attempt {}: {}", KafkaUtils.format(failed), attempt, getMostSpecificCause(e).toString());
            }

            @Override
            public void recovered(ConsumerRecord<?, ?> failed, Exception e) {
                log.error("{} to dead letters", KafkaUtils.format(failed), e);
            }
        });
        handler.setBackOffFunction((failed, e) -> e instanceof Outage ? new FixedBackOff(1000) : null);
        return handler;
    }

    // A consumer that gave up leaves a process that looks well and does nothing.
    @EventListener
    void stopped(ConsumerStoppedEvent event) {
        if (event.getReason() == ConsumerStoppedEvent.Reason.NORMAL) return;
        Thread.ofPlatform().start(() -> System.exit(1)); // not on this thread, for which the shutdown waits
    }
}
