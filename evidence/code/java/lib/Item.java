package lib;

import com.fasterxml.jackson.annotation.JsonIgnore;
import jakarta.persistence.Entity;
import jakarta.persistence.FetchType;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.ManyToOne;

/** An item of an order. */
@Entity
public class Item {
    @Id @GeneratedValue(strategy = GenerationType.SEQUENCE) private Long id;
    @ManyToOne(fetch = FetchType.LAZY) @JsonIgnore private Order order;
    private String sku;

    protected Item() { }
    public Item(Order order, String sku) { this.order = order; this.sku = sku; }

    public Long getId() { return id; }
    public String getSku() { return sku; }
}
