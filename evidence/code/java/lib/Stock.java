package lib;

import jakarta.persistence.Entity;
import jakarta.persistence.Id;

/** How many pieces are left. */
@Entity
public class Stock {
    @Id private long id;
    private int pieces;

    protected Stock() { }
    public Stock(long id, int pieces) { this.id = id; this.pieces = pieces; }

    public void decrement() { pieces--; }
    public int getPieces() { return pieces; }
}
