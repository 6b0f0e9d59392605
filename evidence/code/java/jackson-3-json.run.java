import com.fasterxml.jackson.databind.SerializationFeature;
import org.springframework.boot.jackson2.autoconfigure.Jackson2ObjectMapperBuilderCustomizer;

@Configuration(proxyBeanMethods = false)
class Code {
    <<CELL>>
}

/** The mapper of Boot 4 writes a status and reads a body without its number. */
@Import({Code.class, JacksonAutoConfiguration.class})
class Main {
    record Line(String sku, int pieces) { }

    public static void main(String[] args) {
        var mapper = Measure.application(Main.class).getBean(JsonMapper.class);
        String written = mapper.writeValueAsString(Code.Status.PAID);
        String read = Measure.failure(() -> mapper.readValue("{\"sku\": \"a\", \"pieces\": null}", Line.class));
        Measure.verdict(written.equals("\"PAID\"") && read.equals("none"),
            "written %s; failure with null for a number: %s", written, read);
    }
}
