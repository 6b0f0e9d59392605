package lib;

import com.sun.net.httpserver.HttpHandler;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;

/** What the programs share: a verdict, a server, a Spring Boot application, results and failures of calls. */
public final class Measure {
    private Measure() { }

    /** Prints what was measured and ends: with 0 when the cell does what the row promises, else with 1. */
    public static void verdict(boolean good, String format, Object... values) {
        System.out.printf(format + "%n", values);
        System.err.println("VERDICT");
        Runtime.getRuntime().halt(good ? 0 : 1);
    }

    /** The name of the exception that a call ends with, its cause's where it only wraps, or "none". */
    public static String failure(Callable<?> call) {
        try {
            call.call();
            return "none";
        } catch (Exception e) {
            Throwable shown = e instanceof java.util.concurrent.ExecutionException ? e.getCause() : e;
            return shown.getClass().getSimpleName();
        }
    }

    /** A server on loopback, a thread for each request; returns its address without a slash at the end. */
    public static String server(HttpHandler handler) {
        try {
            var server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
            server.createContext("/", handler);
            server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
            server.start();
            return "http://127.0.0.1:" + server.getAddress().getPort();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The status of a GET, sent with headers as name, value, name, value. */
    public static int status(String url, String... headers) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(10));
        if (headers.length > 0) request.headers(headers);
        return HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.discarding()).statusCode();
    }

    /** The properties that the comments of a cell name: "// name=value". */
    public static String[] properties(String cell) {
        return Pattern.compile("// ([a-z][\\w.-]+=\\S+)").matcher(cell).results().map(each -> each.group(1)).toArray(String[]::new);
    }

    /** An application without a web server; properties are as "name=value". */
    public static ConfigurableApplicationContext application(Class<?> source, String... properties) {
        return application(WebApplicationType.NONE, source, properties);
    }

    /** An application with Tomcat on any port of loopback. */
    public static ConfigurableApplicationContext web(Class<?> source, String... properties) {
        return application(WebApplicationType.SERVLET, source, properties);
    }

    private static ConfigurableApplicationContext application(WebApplicationType type, Class<?> source, String... properties) {
        var all = new java.util.HashMap<String, Object>();
        all.put("spring.main.banner-mode", "off");
        all.put("server.port", "0");
        all.put("server.address", "127.0.0.1");
        all.put("spring.flyway.enabled", "false");
        all.put("spring.jpa.hibernate.ddl-auto", "create");
        all.put("spring.jpa.properties.hibernate.generate_statistics", "true");
        if (System.getenv("DATABASE") != null) {
            all.put("spring.datasource.url", System.getenv("DATABASE"));
            all.put("spring.datasource.username", "postgres");
            all.put("spring.datasource.hikari.maximum-pool-size", "4");
        }
        for (String property : properties) {
            String[] parts = property.split("=", 2);
            all.put(parts[0], parts[1]);
        }
        return new SpringApplicationBuilder(source).web(type).properties(all).run();
    }
}
