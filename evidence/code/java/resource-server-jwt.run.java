import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.crypto.RSASSASigner;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.gen.RSAKeyGenerator;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.SignedJWT;

@Configuration(proxyBeanMethods = false)
class Code {
    final String issuer = Main.issuer;

    <<CELL>>
}

/** An identity provider on loopback; access tokens, one for another API, one that has expired, an ID token. */
@EnableAutoConfiguration(excludeName = {"org.springframework.boot.jdbc.autoconfigure.DataSourceAutoConfiguration",
    "org.springframework.boot.hibernate.autoconfigure.HibernateJpaAutoConfiguration"})
@Import(Code.class)
class Main {
    static String issuer;
    static RSAKey key;

    static String token(String type, String audience, int seconds) throws Exception {
        var claims = new JWTClaimsSet.Builder().issuer(issuer).subject("ann").audience(audience).claim("client_id", "shop")
            .jwtID("1").issueTime(Date.from(Instant.now().plusSeconds(seconds - 600))).expirationTime(Date.from(Instant.now().plusSeconds(seconds))).build();
        var header = new JWSHeader.Builder(JWSAlgorithm.RS256).keyID(key.getKeyID()).type(new JOSEObjectType(type)).build();
        var signed = new SignedJWT(header, claims);
        signed.sign(new RSASSASigner(key));
        return signed.serialize();
    }

    public static void main(String[] args) throws Exception {
        key = new RSAKeyGenerator(2048).keyID("1").generate();
        issuer = Measure.server(exchange -> {
            String answer = exchange.getRequestURI().getPath().startsWith("/.well-known")
                ? "{\"issuer\": \"%s\", \"jwks_uri\": \"%s/keys\", \"subject_types_supported\": [\"public\"]}".formatted(issuer, issuer)
                : new JWKSet(key.toPublicJWK()).toString();
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, answer.length());
            exchange.getResponseBody().write(answer.getBytes());
            exchange.close();
        });
        var app = Measure.web(Main.class, "spring.security.oauth2.resourceserver.jwt.issuer-uri=" + issuer,
            "spring.security.oauth2.resourceserver.jwt.audiences=orders");
        String url = "http://127.0.0.1:" + app.getEnvironment().getProperty("local.server.port") + "/";
        var found = new ArrayList<Integer>();
        for (String token : List.of(token("at+jwt", "orders", 300), token("at+jwt", "billing", 300),
                token("at+jwt", "orders", -300), token("JWT", "orders", 300))) {
            found.add(Measure.status(url, "Authorization", "Bearer " + token)); // 404: past security, where no page is
        }
        Measure.verdict(found.equals(List.of(404, 401, 401, 401)),
            "access token %d, for another API %d, expired %d, ID token %d", found.toArray());
    }
}
