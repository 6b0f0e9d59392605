-- recipes/stock-reservation/stock_reservation.sql with the tables of the ticket: one row for each sku, which also counts
-- what is reserved and sold. Each function is one statement outside a longer transaction, so that a stock row is locked
-- for one commit and for no round trip.

CREATE UNIQUE INDEX reservations_request ON reservations (request_id);
CREATE INDEX reservations_due ON reservations (expires_at) WHERE status = 'held';
ALTER TABLE stock ADD CONSTRAINT stock_counts CHECK (available >= 0 AND reserved >= 0 AND sold >= 0);

-- The reservation, and what there is to say about it: 'held' and so on, 'sold_out', 'unknown_sku', 'request_id_reused'.
CREATE FUNCTION reserve(p_id text, p_request_id text, p_sku text, p_quantity integer, p_hold interval)
RETURNS TABLE (answer text, reservation reservations) LANGUAGE plpgsql AS $$
DECLARE
    v_known     text;
    v_available integer;
BEGIN
    -- Counting takes no lock, so that the many who come too late do not queue. Both are read by one statement, that
    -- is at one moment: a repeated request can never see its own units gone and its own reservation missing.
    SELECT (SELECT r.id FROM reservations r WHERE r.request_id = p_request_id),
           (SELECT available FROM stock WHERE stock.sku = p_sku)
    INTO v_known, v_available;
    IF v_known IS NULL THEN
        IF v_available IS NULL THEN RETURN QUERY SELECT 'unknown_sku', NULL::reservations; RETURN; END IF;
        IF v_available < p_quantity THEN RETURN QUERY SELECT 'sold_out', NULL::reservations; RETURN; END IF;
        -- The stock comes last: its lock is the one that others wait for. Only the database's clock counts.
        INSERT INTO reservations (id, request_id, sku, quantity, status, expires_at)
        VALUES (p_id, p_request_id, p_sku, p_quantity, 'held', clock_timestamp() + p_hold)
        ON CONFLICT (request_id) DO NOTHING;
        IF FOUND THEN
            UPDATE stock SET available = available - p_quantity, reserved = reserved + p_quantity
            WHERE sku = p_sku AND available >= p_quantity;
            IF NOT FOUND THEN
                DELETE FROM reservations WHERE id = p_id;
                RETURN QUERY SELECT 'sold_out', NULL::reservations;
                RETURN;
            END IF;
        END IF; -- otherwise the same request came at the same time on another connection, which has committed by now
    END IF;
    SELECT r.* INTO reservation FROM reservations r WHERE r.request_id = p_request_id;
    IF reservation.sku <> p_sku OR reservation.quantity <> p_quantity THEN
        RETURN QUERY SELECT 'request_id_reused', NULL::reservations;
        RETURN;
    END IF;
    RETURN QUERY SELECT reservation.status, reservation;
END $$;

-- After the payment: 'confirmed', or why not ('released', 'expired', NULL for an unknown id), and the reservation.
CREATE FUNCTION confirm(p_id text) RETURNS TABLE (answer text, reservation reservations) LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.* INTO reservation FROM reservations r WHERE r.id = p_id FOR NO KEY UPDATE;
    IF reservation.status = 'held' THEN
        IF reservation.expires_at <= clock_timestamp() THEN
            answer := 'expired'; RETURN NEXT; RETURN;
        END IF;
        UPDATE stock SET reserved = reserved - reservation.quantity, sold = sold + reservation.quantity
        WHERE sku = reservation.sku;
        UPDATE reservations r SET status = 'confirmed' WHERE r.id = p_id RETURNING r.* INTO reservation;
    END IF;
    answer := reservation.status; RETURN NEXT;
END $$;

-- The buyer gives up or the payment fails. Returns the state afterwards: 'confirmed' means that it was too late.
CREATE FUNCTION release(p_id text) RETURNS TABLE (answer text, reservation reservations) LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.* INTO reservation FROM reservations r WHERE r.id = p_id FOR NO KEY UPDATE;
    IF reservation.status = 'held' THEN
        UPDATE stock SET available = available + reservation.quantity, reserved = reserved - reservation.quantity
        WHERE sku = reservation.sku;
        UPDATE reservations r SET status = CASE WHEN r.expires_at <= clock_timestamp() THEN 'expired' ELSE 'released' END
        WHERE r.id = p_id RETURNING r.* INTO reservation;
    END IF;
    answer := reservation.status; RETURN NEXT;
END $$;

-- Puts the units of lapsed reservations on sale again; returns how many reservations. Run it every second or so, on
-- as many machines as you like: SKIP LOCKED passes over those that another run or a confirmation has in hand.
CREATE FUNCTION expire_reservations(p_limit integer DEFAULT 500) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_freed record;
    v_count bigint := 0;
BEGIN
    FOR v_freed IN
        WITH due AS (
            SELECT id FROM reservations WHERE status = 'held' AND expires_at <= now() -- clock_timestamp() uses no index
            ORDER BY expires_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
        ), freed AS (
            UPDATE reservations SET status = 'expired' FROM due WHERE reservations.id = due.id RETURNING sku, quantity
        )
        SELECT sku, sum(quantity)::integer AS units, count(*) AS reservations
        FROM freed GROUP BY sku ORDER BY sku -- stock rows are locked in one order by everybody
    LOOP
        UPDATE stock SET available = available + v_freed.units, reserved = reserved - v_freed.units
        WHERE sku = v_freed.sku;
        v_count := v_count + v_freed.reservations;
    END LOOP;
    RETURN v_count;
END $$;
