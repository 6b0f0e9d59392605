package lib;

import jakarta.persistence.Entity;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.Id;
import jakarta.persistence.Version;

/** A product that users edit. */
@Entity
public class Product {
    @Id @GeneratedValue private Long id;
    @Version private int version;
    private String name = "first";

    public Long getId() { return id; }
    public int getVersion() { return version; }
    public void setVersion(int version) { this.version = version; }
    public String getName() { return name; }
    public void setName(String name) { this.name = name; }
}
