package lib;

import java.util.List;

/** What an endpoint shows of an order. */
public record OrderView(long id, int count, List<String> skus) {
    public OrderView(long id, int count) { this(id, count, List.of()); }
    public OrderView(long id, List<String> skus) { this(id, skus.size(), skus); }
}
