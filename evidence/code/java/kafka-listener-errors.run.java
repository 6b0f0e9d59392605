import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerConfig;

@Configuration
class Code {
    record OrderPlaced(int id) { }

    static class InvalidOrderException extends RuntimeException { }

    static final Map<Integer, Integer> tries = new ConcurrentHashMap<>();
    static final Set<Integer> applied = ConcurrentHashMap.newKeySet();

    interface Orders { void apply(OrderPlaced event); }

    final Orders orders = event -> {
        int times = tries.merge(event.id(), 1, Integer::sum);
        if (event.id() == 2) throw new InvalidOrderException();
        if (event.id() == 3 && times < 3) throw new IllegalStateException("database is away");
        applied.add(event.id());
    };
    final ExecutorService executor = Executors.newFixedThreadPool(4);

    <<CELL>>
}

/** Four records in a broker (KAFKA): the second is invalid, the third fails twice. */
@EnableAutoConfiguration(excludeName = {"org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
    "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration"})
@Import(Code.class)
class Main {
    static final List<String> dead = new CopyOnWriteArrayList<>();

    @KafkaListener(topics = "orders-dlt", groupId = "dead", properties = "auto.offset.reset=earliest",
        containerFactory = "letters")
    void dead(org.apache.kafka.clients.consumer.ConsumerRecord<?, ?> letter) {
        dead.add(String.valueOf(letter.value()));
    }

    @Bean
    static org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory<String, String> letters() {
        var factory = new org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory<String, String>();
        var text = org.apache.kafka.common.serialization.StringDeserializer.class;
        factory.setConsumerFactory(new DefaultKafkaConsumerFactory<>(Map.of("bootstrap.servers", System.getenv("KAFKA"),
            "key.deserializer", text, "value.deserializer", text)));
        return factory;
    }

    public static void main(String[] args) throws Exception {
        String broker = System.getenv("KAFKA");
        String json = "org.springframework.kafka.support.serializer.JacksonJson";
        boolean manual = Stream.of(Code.class.getDeclaredMethods())
            .anyMatch(method -> Arrays.asList(method.getParameterTypes()).contains(Acknowledgment.class));
        try (var admin = AdminClient.create(Map.of("bootstrap.servers", broker))) {
            admin.deleteTopics(admin.listTopics().names().get()).all().get();
            Thread.sleep(500);
            admin.createTopics(List.of(new NewTopic("orders", 1, (short) 1), new NewTopic("orders-dlt", 1, (short) 1))).all().get();
        }
        var app = Measure.application(Main.class, "spring.kafka.bootstrap-servers=" + broker,
            "spring.kafka.consumer.group-id=<<NAME>>", "spring.kafka.consumer.auto-offset-reset=earliest",
            "spring.kafka.consumer.value-deserializer=" + json + "Deserializer", "spring.kafka.producer.value-serializer=" + json + "Serializer",
            "spring.kafka.consumer.properties[spring.json.trusted.packages]=*",
            "spring.kafka.producer.key-serializer=org.apache.kafka.common.serialization.StringSerializer",
            "spring.kafka.listener.ack-mode=" + (manual ? "manual" : "batch"));
        KafkaTemplate<Object, Object> template = app.getBean(KafkaTemplate.class);
        for (int id = 1; id <= 4; id++) template.send("orders", new Code.OrderPlaced(id)).get();
        for (int i = 0; i < 100 && !(Code.applied.size() == 3 && dead.size() == 1); i++) Thread.sleep(100);
        Measure.verdict(Code.applied.equals(Set.of(1, 3, 4)) && dead.size() == 1, "applied %s, tries %s, dead letters %s",
            new TreeSet<>(Code.applied), new TreeMap<>(Code.tries), dead);
    }
}
