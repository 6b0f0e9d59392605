import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;

class Code {
    static final Logger log = LoggerFactory.getLogger(Code.class);

    <<CELL>>
}

/** Two requests of two users, one after the other on the same thread; the second has no user. */
class Main {
    public static void main(String[] args) throws Exception {
        var events = new ListAppender<ILoggingEvent>();
        events.start();
        var logger = (ch.qos.logback.classic.Logger) Code.log;
        logger.setLevel(ch.qos.logback.classic.Level.INFO);
        logger.addAppender(events);
        try (var pool = Executors.newVirtualThreadPerTaskExecutor()) {
            new Code().export(pool, 7, "ann");
        }
        var fields = events.list.getFirst().getMDCPropertyMap();
        var left = MDC.get("user");
        Measure.verdict("ann".equals(fields.get("user")) && left == null,
            "fields of the line %s; user left on the request's thread: %s", fields, left);
    }
}
