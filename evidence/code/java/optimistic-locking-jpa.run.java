import org.springframework.boot.persistence.autoconfigure.EntityScan;
import org.springframework.data.jpa.repository.config.EnableJpaRepositories;

interface ProductRepository extends JpaRepository<Product, Long> { }

class Code {
    final ProductRepository products;

    Code(ProductRepository products) {
        this.products = products;
    }

    <<CELL>>
}

/** A product of DATABASE whose form two users opened; both save, the second with the version that it saw. */
@EnableAutoConfiguration
@EntityScan(basePackageClasses = Product.class)
@EnableJpaRepositories
@Import(Code.class)
class Main {
    public static void main(String[] args) {
        var app = Measure.application(Main.class);
        var products = app.getBean(ProductRepository.class);
        var code = app.getBean(Code.class);
        Product shown = products.save(new Product());
        code.rename(shown.getId(), shown.getVersion(), "of the first user");
        String failure = Measure.failure(() -> {
            code.rename(shown.getId(), shown.getVersion(), "of the second user");
            return null;
        });
        String name = products.findById(shown.getId()).orElseThrow().getName();
        Measure.verdict(!failure.equals("none") && name.equals("of the first user"),
            "second save: failure %s; the name is now that %s", failure, name);
    }
}
