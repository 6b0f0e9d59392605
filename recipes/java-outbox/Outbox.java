package outbox;

import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.RetriableException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.kafka.core.ProducerFactory;
import org.springframework.scheduling.annotation.EnableScheduling;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.stereotype.Component;
import org.springframework.transaction.annotation.Propagation;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.transaction.support.TransactionTemplate;
import tools.jackson.databind.json.JsonMapper;

/** Where transactions leave their events. */
@Component
public class Outbox {
    private final JdbcClient db;
    private final JsonMapper json;

    Outbox(JdbcClient db, JsonMapper json) {
        this.db = db;
        this.json = json;
    }

    // MANDATORY: an event in a transaction of its own would survive the rollback of what it tells about.
    @Transactional(propagation = Propagation.MANDATORY)
    public void add(String aggregate, String type, Object payload) {
        db.sql("INSERT INTO outbox (aggregate, type, payload) VALUES (?, ?, ?::jsonb)")
                .params(aggregate, type, json.writeValueAsString(payload)).update();
    }
}

/** Moves events from the table to Kafka; any number of them may run. */
@Component
@EnableScheduling
class Relay {
    private static final Logger log = LoggerFactory.getLogger(Relay.class);
    private static final String WAITING = """
            FROM outbox o WHERE o.lane = %s AND o.sent_at IS NULL AND NOT EXISTS (
                SELECT FROM outbox refused WHERE refused.aggregate = o.aggregate AND refused.next_at > now())""";
    private static final String CLAIM = "SELECT lane FROM outbox_lane l WHERE EXISTS (SELECT "
            + WAITING.formatted("l.lane") + ") ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED";
    private static final String READ = "SELECT position, id, aggregate, type, payload::text AS payload "
            + WAITING.formatted("?") + " ORDER BY position LIMIT ?";

    record Event(long position, UUID id, String aggregate, String type, String payload) {}

    private final JdbcClient db;
    private final TransactionTemplate transaction;
    private final Producer<String, byte[]> producer;
    private final String topic;
    private final int size;

    Relay(JdbcClient db, TransactionTemplate transaction, ProducerFactory<String, byte[]> producers,
            @Value("${outbox.topic}") String topic, @Value("${outbox.batch}") int size) {
        this.db = db;
        this.transaction = transaction;
        this.producer = producers.createProducer();
        this.topic = topic;
        this.size = size;
    }

    @Scheduled(fixedDelayString = "${outbox.poll}")
    void run() {
        // Bounded, so that a shutdown waits for some batches and not until the outbox is empty.
        for (var batches = 0; batches < 20; batches++)
            if (!Boolean.TRUE.equals(transaction.execute(status -> batch()))) return;
    }

    private boolean batch() {
        var lane = db.sql(CLAIM).query(Integer.class).optional();
        if (lane.isEmpty()) return false;
        // A statement of its own: its snapshot is younger than the lock, and shows what the last holder has marked.
        Map<String, Deque<Event>> queues = new LinkedHashMap<>();
        for (var event : db.sql(READ).params(lane.get(), size).query(Event.class).list())
            queues.computeIfAbsent(event.aggregate(), key -> new ArrayDeque<>()).add(event);
        var sent = new ArrayList<Long>();
        Throwable broken = null;
        // One event of each aggregate in the air: the next one leaves when the broker has this one, and never before.
        while (broken == null && !queues.isEmpty()) {
            Map<Event, Future<?>> flying = new LinkedHashMap<>();
            for (var queue : queues.values()) {
                var event = queue.remove();
                var future = send(event);
                flying.put(event, future);
                // Without metadata each send would block for max.block.ms.
                if (future.isDone() && future.state() == Future.State.FAILED && away(future.exceptionNow())) break;
            }
            for (var each : flying.entrySet()) {
                var failure = failure(each.getValue());
                if (failure == null) sent.add(each.getKey().position());
                else {
                    queues.remove(each.getKey().aggregate());
                    if (away(failure)) broken = failure; // the broker's fault: no attempt of the event's
                    else refused(each.getKey(), failure);
                }
            }
            queues.values().removeIf(Deque::isEmpty);
        }
        db.sql("UPDATE outbox SET sent_at = now(), next_at = NULL WHERE position = ANY (?)")
                .params((Object) sent.toArray(Long[]::new)).update();
        if (broken != null) log.warn("broker: {}", broken.toString());
        return broken == null;
    }

    private Future<?> send(Event event) {
        var record = new ProducerRecord<>(topic, event.aggregate(), event.payload().getBytes(StandardCharsets.UTF_8));
        record.headers().add("id", event.id().toString().getBytes(StandardCharsets.UTF_8));
        record.headers().add("type", event.type().getBytes(StandardCharsets.UTF_8));
        return producer.send(record);
    }

    private static Throwable failure(Future<?> future) {
        try {
            future.get(); // ends by delivery.timeout.ms
            return null;
        } catch (ExecutionException e) {
            return e.getCause();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e); // rolls back: what was sent comes again
        }
    }

    private static boolean away(Throwable failure) {
        return failure instanceof RetriableException;
    }

    private void refused(Event event, Throwable failure) {
        log.error("event {} of {} refused: {}", event.id(), event.aggregate(), failure.toString());
        db.sql("""
                UPDATE outbox SET attempts = attempts + 1, last_error = ?,
                    next_at = clock_timestamp() + least(300, 2 ^ least(attempts, 10)) * interval '1 s' WHERE position = ?""")
                .params(failure.toString(), event.position()).update();
    }
}
