package outbox;

import java.util.Map;
import java.util.Scanner;
import org.springframework.boot.CommandLineRunner;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.transaction.support.TransactionTemplate;

/** A program that places orders, as lines of the standard input say: "commit 7", "roll back 8", "without 9". */
@SpringBootApplication(proxyBeanMethods = false)
public class Orders {
    @Bean
    CommandLineRunner lines(JdbcClient db, TransactionTemplate transaction, Outbox outbox) {
        return arguments -> Thread.ofPlatform().daemon().start(() -> {
            for (var lines = new Scanner(System.in); lines.hasNextLine();) {
                var line = lines.nextLine();
                var id = line.substring(line.lastIndexOf(' ') + 1);
                try {
                    if (line.startsWith("without")) outbox.add("order/" + id, "OrderPlaced", Map.of("number", 1));
                    else transaction.executeWithoutResult(status -> {
                        db.sql("INSERT INTO orders VALUES (?)").params(id).update();
                        outbox.add("order/" + id, "OrderPlaced", Map.of("number", 1));
                        if (line.startsWith("roll back")) throw new IllegalStateException("changed my mind");
                    });
                    System.out.println("answer: done");
                } catch (RuntimeException e) {
                    System.out.println("answer: " + e.getClass().getSimpleName());
                }
            }
        });
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Orders.class, arguments);
    }
}
