import org.springframework.core.annotation.Order;

class Code {
    <<CELL>>
}
