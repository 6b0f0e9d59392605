import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import org.springframework.boot.flyway.autoconfigure.FlywayAutoConfiguration;

<<CELL>>

/** The test, run in an application without the module of Flyway and in one with it. */
class Main {
    static String result(Class<?> application) throws Exception {
        var folder = Files.createTempDirectory("migrations");
        Files.writeString(folder.resolve("V1__orders.sql"), "create table if not exists placed (id bigint)");
        Class<?> type = Stream.of("MigrationTest", "ContextTest").flatMap(Main::named).findFirst().orElseThrow();
        var app = Measure.application(application, "spring.flyway.enabled=true", "spring.jpa.hibernate.ddl-auto=none",
            "spring.flyway.locations=filesystem:" + folder);
        Object test = app.getAutowireCapableBeanFactory().createBean(type);
        try {
            for (var method : type.getDeclaredMethods()) {
                if (method.isAnnotationPresent(Test.class)) method.invoke(test);
            }
            return "passes";
        } catch (java.lang.reflect.InvocationTargetException e) {
            return "fails";
        } finally {
            app.close();
        }
    }

    static Stream<Class<?>> named(String name) {
        try {
            return Stream.of(Class.forName(Main.class.getPackageName() + "." + name));
        } catch (ClassNotFoundException e) {
            return Stream.empty();
        }
    }

    @EnableAutoConfiguration(exclude = FlywayAutoConfiguration.class)
    static class Without { }

    @EnableAutoConfiguration
    static class With { } // reads DATABASE

    public static void main(String[] args) throws Exception {
        String without = result(Without.class);
        String with = result(With.class);
        Measure.verdict(without.equals("fails") && with.equals("passes"),
            "the test, without the module %s, with it %s", without, with);
    }
}
