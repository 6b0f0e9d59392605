import org.springframework.boot.test.context.SpringBootTest.WebEnvironment;
import org.testcontainers.postgresql.PostgreSQLContainer;

class Code {
    interface PaymentGateway { }

    <<CELL>>
}
