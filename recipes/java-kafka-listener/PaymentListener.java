package payments;

import io.github.resilience4j.circuitbreaker.CallNotPermittedException;
import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import java.math.BigDecimal;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.dao.DataAccessResourceFailureException;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.transaction.CannotCreateTransactionException;
import org.springframework.transaction.support.TransactionTemplate;
import payments.Listening.BadEvent;
import payments.Listening.Outage;
import tools.jackson.databind.json.JsonMapper;

@SpringBootApplication(proxyBeanMethods = false)
public class PaymentListener {
    record Payment(String account, long cents, String currency) {
        Payment {
            if (account == null || currency == null || !currency.matches("[A-Z]{3}")) throw new BadEvent("fields");
        }
    }

    private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(1)).build();
    private final JsonMapper json;
    private final JdbcClient db;
    private final TransactionTemplate transaction;
    private final CircuitBreaker breaker;
    private final Listening.Settings settings;

    PaymentListener(JsonMapper json, JdbcClient db, TransactionTemplate transaction, CircuitBreaker breaker,
            Listening.Settings settings) {
        this.json = json;
        this.db = db;
        this.transaction = transaction;
        this.breaker = breaker;
        this.settings = settings;
    }

    // Bytes, parsed here and not in poll(): what cannot be read fails like any other record, and the dead letter has
    // exactly the bytes that came.
    @KafkaListener(id = "payments", idIsGroup = false, topics = "${payments.topic}")
    void on(ConsumerRecord<byte[], byte[]> record) {
        try {
            var event = eventId(record);
            var payment = payment(record);
            // Before the transaction, which would hold a connection and locks for as long as the service takes.
            var rate = breaker.executeSupplier(() -> rate(payment.currency()));
            transaction.executeWithoutResult(status -> book(event, payment, rate));
        } catch (CallNotPermittedException | CannotCreateTransactionException | DataAccessResourceFailureException e) {
            throw new Outage(e);
        }
    }

    private void book(UUID event, Payment payment, BigDecimal rate) {
        var added = db.sql("INSERT INTO inbox (consumer, event_id) VALUES ('ledger', ?) ON CONFLICT DO NOTHING")
                .params(event).update();
        if (added == 0) return; // done before, and committed together with its effect
        var cents = rate.multiply(BigDecimal.valueOf(payment.cents()));
        var found = db.sql("UPDATE account SET cents = cents + round(?) WHERE id = ?")
                .params(cents, payment.account()).update();
        if (found == 0) throw new BadEvent("no such account");
    }

    private UUID eventId(ConsumerRecord<byte[], byte[]> record) {
        var header = record.headers().lastHeader("id");
        if (header == null) throw new BadEvent("no id"); // topic, partition and offset change when a record is sent again
        try {
            return UUID.fromString(new String(header.value(), StandardCharsets.UTF_8));
        } catch (RuntimeException e) {
            throw new BadEvent("id is no UUID");
        }
    }

    private Payment payment(ConsumerRecord<byte[], byte[]> record) {
        if (record.value() == null) throw new BadEvent("no value");
        try {
            return json.readValue(record.value(), Payment.class);
        } catch (RuntimeException e) {
            throw new BadEvent("not readable: " + e.getClass().getSimpleName()); // its message would quote the payload
        }
    }

    private BigDecimal rate(String currency) {
        var request = HttpRequest.newBuilder(settings.rates().resolve(currency)).build();
        var call = http.sendAsync(request, HttpResponse.BodyHandlers.ofString());
        try {
            // HttpRequest.timeout() ends with the headers; this covers a body that trickles in, too.
            var answer = call.get(settings.deadline().toMillis(), TimeUnit.MILLISECONDS);
            if (answer.statusCode() == 404) throw new BadEvent("no such currency");
            if (answer.statusCode() != 200) throw new IllegalStateException("status " + answer.statusCode());
            return new BigDecimal(answer.body().strip());
        } catch (ExecutionException | TimeoutException | IllegalStateException | NumberFormatException e) {
            throw new Outage(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new Outage(e);
        } finally {
            call.cancel(true);
        }
    }

    public static void main(String[] arguments) {
        SpringApplication.run(PaymentListener.class, arguments);
    }
}
