import org.springframework.boot.resttestclient.TestRestTemplate;
import org.springframework.boot.test.mock.mockito.MockBean;
import org.testcontainers.containers.PostgreSQLContainer;
import org.testcontainers.junit.jupiter.Container;
import org.testcontainers.junit.jupiter.Testcontainers;

class Code {
    interface PaymentGateway { }

    <<CELL>>
}
