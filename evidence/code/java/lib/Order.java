package lib;

import jakarta.persistence.CascadeType;
import jakarta.persistence.Entity;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.OneToMany;
import jakarta.persistence.Table;
import jakarta.persistence.Version;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;

/** An order with its items, which are loaded lazily. */
@Entity
@Table(name = "orders")
public class Order {
    @Id @GeneratedValue(strategy = GenerationType.SEQUENCE) private Long id;
    @Version private int version;
    private String status = "OPEN";
    private Instant due = Instant.EPOCH;
    private int risk;
    @OneToMany(mappedBy = "order", cascade = CascadeType.ALL) private List<Item> items = new ArrayList<>();

    public static Order with(String... skus) {
        Order order = new Order();
        for (String sku : skus) order.items.add(new Item(order, sku));
        return order;
    }

    public Long getId() { return id; }
    public int getVersion() { return version; }
    public String getStatus() { return status; }
    public void setStatus(String status) { this.status = status; }
    public void setRisk(int risk) { this.risk = risk; }
    public int getRisk() { return risk; }
    public List<Item> getItems() { return items; }
}
