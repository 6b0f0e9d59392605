import com.fasterxml.jackson.databind.SerializationFeature;
import org.springframework.boot.jackson2.autoconfigure.Jackson2ObjectMapperBuilderCustomizer;

class Code {
    <<CELL>>
}
