import org.springframework.core.annotation.Order;
import org.springframework.security.core.userdetails.User;
import org.springframework.security.core.userdetails.UserDetailsService;
import org.springframework.security.provisioning.InMemoryUserDetailsManager;

@Configuration(proxyBeanMethods = false)
class Code {
    <<CELL>>
}

/** Everything is exposed; somebody without a name, a user and an operator ask. */
@EnableAutoConfiguration(excludeName = "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration")
@Import(Code.class)
class Main {
    @Bean
    UserDetailsService users() {
        return new InMemoryUserDetailsManager(
            User.withUsername("ann").password("{noop}a").roles("USER").build(),
            User.withUsername("olga").password("{noop}o").roles("OPS").build());
    }

    static String basic(String credentials) {
        return "Basic " + Base64.getEncoder().encodeToString(credentials.getBytes());
    }

    public static void main(String[] args) throws Exception {
        var app = Measure.web(Main.class, "spring.autoconfigure.exclude=org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
            "management.endpoints.web.exposure.include=*");
        String actuator = "http://127.0.0.1:" + app.getEnvironment().getProperty("local.server.port") + "/actuator/";
        int nobody = Measure.status(actuator + "env");
        int user = Measure.status(actuator + "env", "Authorization", basic("ann:a"));
        int operator = Measure.status(actuator + "env", "Authorization", basic("olga:o"));
        int health = Measure.status(actuator + "health");
        int dump = Measure.status(actuator + "heapdump", "Authorization", basic("olga:o"));
        Measure.verdict(nobody == 401 && user == 403 && operator == 200 && health == 200,
            "env: without a name %d, user %d, operator %d; health %d; heapdump although exposed %d",
            nobody, user, operator, health, dump);
    }
}
