-- Stock reservation with expiry. Load it into a schema of its own; call the functions from any language, each as one
-- statement outside a longer transaction, so that a stock row is locked for one commit and for no round trip.
--
-- An article's stock lies in one row or in several (buckets). Only their sum has a meaning: units may go back into
-- another bucket than the one they came from. One bucket is the plain single-row counter.

CREATE TABLE stock (
    sku       text     NOT NULL,
    bucket    smallint NOT NULL,
    available integer  NOT NULL CHECK (available >= 0), -- stops statements that other people write against this table
    PRIMARY KEY (sku, bucket)
) WITH (fillfactor = 50); -- room on the page, so that updates stay there and leave the index alone

CREATE TABLE reservation (
    id         uuid        PRIMARY KEY, -- chosen by the caller and kept over retries
    sku        text        NOT NULL,
    quantity   integer     NOT NULL CHECK (quantity > 0),
    state      text        NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'confirmed', 'released', 'expired')),
    expires_at timestamptz NOT NULL
);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE state = 'held';

CREATE FUNCTION open_stock(p_sku text, p_quantity integer, p_buckets integer) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    INSERT INTO stock (sku, bucket, available)
    SELECT p_sku, b, p_quantity / p_buckets + (b < p_quantity % p_buckets)::integer
    FROM generate_series(0, p_buckets - 1) AS b;
END;

-- Puts units on sale: a delivery, a reservation that was released or has expired.
CREATE FUNCTION add_stock(p_sku text, p_quantity integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stock SET available = available + p_quantity
    WHERE sku = p_sku AND bucket = (SELECT bucket FROM stock WHERE sku = p_sku ORDER BY random() LIMIT 1);
    IF NOT FOUND THEN RAISE no_data_found USING MESSAGE = 'no stock is kept of ' || p_sku; END IF;
END $$;

-- True when it took the units, false when fewer were on sale at one moment during the call.
CREATE FUNCTION take_stock(p_sku text, p_quantity integer) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_bucket smallint;
    v_found  bigint := 0;
BEGIN
    -- The common case: a bucket that has enough and that nobody holds. Whoever locks a row and then finds that its
    -- newest version has too few keeps the lock. Leaving by an exception gives it up, for to hold one bucket and wait
    -- for any other is how buyers deadlock.
    BEGIN
        UPDATE stock SET available = available - p_quantity
        WHERE sku = p_sku AND bucket = (
            SELECT bucket FROM stock WHERE sku = p_sku AND available >= p_quantity
            ORDER BY random() LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED);
        IF FOUND THEN RETURN true; END IF;
        RAISE SQLSTATE 'NOONE';
    EXCEPTION WHEN SQLSTATE 'NOONE' THEN NULL;
    END;
    BEGIN -- all busy: wait for one of them, each buyer for another
        UPDATE stock SET available = available - p_quantity
        WHERE sku = p_sku AND available >= p_quantity AND bucket = (
            SELECT bucket FROM stock WHERE sku = p_sku AND available >= p_quantity ORDER BY random() LIMIT 1);
        IF FOUND THEN RETURN true; END IF;
        RAISE SQLSTATE 'NOONE';
    EXCEPTION WHEN SQLSTATE 'NOONE' THEN NULL;
    END;
    -- The units are scattered or nearly gone: collect them from as many buckets as it takes. Everybody goes through
    -- the buckets in the same order, so this cannot deadlock; after the last one the count is exact.
    FOR v_bucket IN SELECT bucket FROM stock WHERE sku = p_sku ORDER BY bucket LOOP
        SELECT v_found + available INTO v_found FROM stock
        WHERE sku = p_sku AND bucket = v_bucket FOR NO KEY UPDATE;
        EXIT WHEN v_found >= p_quantity;
    END LOOP;
    IF v_found < p_quantity THEN RETURN false; END IF;
    UPDATE stock SET available = available - least(available, p_quantity - earlier.units)
    FROM (SELECT bucket, sum(available) OVER (ORDER BY bucket) - available AS units FROM stock WHERE sku = p_sku) earlier
    WHERE sku = p_sku AND stock.bucket = earlier.bucket AND earlier.units < p_quantity;
    RETURN true;
END $$;

-- 'held' or 'sold_out'; for an id that exists already, its state.
CREATE FUNCTION reserve(p_id uuid, p_sku text, p_quantity integer, p_hold interval) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_state     text;
    v_available bigint;
BEGIN
    -- Counting takes no lock, so that the many who come too late do not queue. Both are read by one statement, that
    -- is at one moment: a repeated request can never see its own units gone and its own reservation missing.
    SELECT (SELECT state FROM reservation WHERE id = p_id AND sku = p_sku AND quantity = p_quantity),
           (SELECT sum(available) FROM stock WHERE sku = p_sku)
    INTO v_state, v_available;
    IF v_state IS NOT NULL THEN RETURN v_state; END IF;
    IF v_available IS NULL THEN RAISE no_data_found USING MESSAGE = 'no stock is kept of ' || p_sku; END IF;
    IF v_available < p_quantity THEN RETURN 'sold_out'; END IF;
    -- The stock comes last: its lock is the one that others wait for. Only the database's clock counts.
    INSERT INTO reservation (id, sku, quantity, expires_at)
    VALUES (p_id, p_sku, p_quantity, clock_timestamp() + p_hold) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN -- the same id came at the same time on another connection, which has committed by now
        SELECT state INTO v_state FROM reservation WHERE id = p_id AND sku = p_sku AND quantity = p_quantity;
        IF NOT FOUND THEN RAISE unique_violation USING MESSAGE = p_id || ' reserves something else'; END IF;
        RETURN v_state;
    END IF;
    IF take_stock(p_sku, p_quantity) THEN RETURN 'held'; END IF;
    DELETE FROM reservation WHERE id = p_id;
    RETURN 'sold_out';
END $$;

-- After the payment: 'confirmed', or why not ('released', 'expired', NULL for an unknown id): give the money back then.
CREATE FUNCTION confirm(p_id uuid) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_wanted reservation;
BEGIN
    SELECT * INTO v_wanted FROM reservation WHERE id = p_id FOR NO KEY UPDATE;
    IF v_wanted.state = 'expired' THEN -- its units are on sale again; the buyer has paid, so try to get them back
        IF NOT take_stock(v_wanted.sku, v_wanted.quantity) THEN RETURN 'expired'; END IF;
    ELSIF v_wanted.state IS DISTINCT FROM 'held' THEN
        RETURN v_wanted.state;
    END IF;
    UPDATE reservation SET state = 'confirmed' WHERE id = p_id;
    RETURN 'confirmed';
END $$;

-- The buyer gives up or the payment fails. Returns the state afterwards: 'confirmed' means that it was too late.
CREATE FUNCTION release(p_id uuid) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_freed reservation;
BEGIN
    UPDATE reservation SET state = 'released' WHERE id = p_id AND state = 'held' RETURNING * INTO v_freed;
    IF FOUND THEN PERFORM add_stock(v_freed.sku, v_freed.quantity); END IF;
    RETURN (SELECT state FROM reservation WHERE id = p_id);
END $$;

-- Puts the units of lapsed reservations on sale again; returns how many reservations. Run it every second or so, on
-- as many machines as you like: SKIP LOCKED passes over those that another run or a confirmation has in hand.
CREATE FUNCTION expire_reservations(p_limit integer DEFAULT 500) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_freed record;
    v_count bigint := 0;
BEGIN
    FOR v_freed IN
        WITH due AS (
            SELECT id FROM reservation WHERE state = 'held' AND expires_at <= now() -- clock_timestamp() uses no index
            ORDER BY expires_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
        ), freed AS (
            UPDATE reservation SET state = 'expired' FROM due WHERE reservation.id = due.id RETURNING sku, quantity
        )
        SELECT sku, sum(quantity)::integer AS units, count(*) AS reservations
        FROM freed GROUP BY sku ORDER BY sku -- stock rows are locked in one order by everybody
    LOOP
        PERFORM add_stock(v_freed.sku, v_freed.units);
        v_count := v_count + v_freed.reservations;
    END LOOP;
    RETURN v_count;
END $$;
