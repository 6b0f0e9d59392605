-- Bookings of rooms that never overlap, with holds that lapse by themselves. Load it into a schema of its own; call the
-- functions from any language, each as one statement outside a longer transaction.

CREATE EXTENSION IF NOT EXISTS btree_gist; -- lets a GiST index compare room_id with =

CREATE TABLE room (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);

CREATE TABLE booking (
    id         uuid        PRIMARY KEY, -- chosen by the caller and kept over retries
    room_id    bigint      NOT NULL REFERENCES room,
    guest      text        NOT NULL,
    during     tstzrange   NOT NULL,
    state      text        NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'confirmed', 'cancelled', 'expired')),
    expires_at timestamptz NOT NULL, -- of a hold
    -- An empty range overlaps nothing, not even itself; '[10:00,11:00]' and '[11:00,12:00]' overlap. IS TRUE, for an
    -- open end makes the condition NULL, and a CHECK accepts NULL.
    CONSTRAINT booking_slot CHECK ((lower_inc(during) AND NOT upper_inc(during)
        AND isfinite(lower(during)) AND isfinite(upper(during))) IS TRUE),
    CONSTRAINT booking_length CHECK (upper(during) - lower(during) <= interval '31 days'),
    -- Not UNIQUE (room_id, during WITHOUT OVERLAPS) of PostgreSQL 18: it takes no WHERE, so that bookings which are
    -- cancelled would have to leave the table.
    CONSTRAINT booking_overlap EXCLUDE USING gist (room_id WITH =, during WITH &&)
        WHERE (state IN ('held', 'confirmed'))
);

-- What to show as taken: a lapsed hold is free at once, though nobody has touched its row yet.
CREATE VIEW busy WITH (security_invoker = true) AS
    SELECT room_id, during FROM booking
    WHERE state IN ('held', 'confirmed') AND (state = 'confirmed' OR expires_at > now());

-- Holds a slot: the booking, or NULL when the slot is taken. A repeated id gets its booking, in whatever state it is.
CREATE FUNCTION book(p_id uuid, p_room bigint, p_during tstzrange, p_guest text, p_hold interval) RETURNS booking
LANGUAGE plpgsql AS $$
DECLARE
    v_booking booking;
BEGIN
    SELECT * INTO v_booking FROM booking WHERE id = p_id;
    IF NOT FOUND THEN
        -- Who comes too late is told without waiting for any lock. The same request on another connection is not in
        -- its own way.
        IF EXISTS (SELECT FROM booking WHERE room_id = p_room AND during && p_during AND id <> p_id
                   AND state IN ('held', 'confirmed') AND (state = 'confirmed' OR expires_at > now())) THEN
            RETURN NULL;
        END IF;
        -- Holds that have lapsed give way. All lock them in one order; a confirmation under way is waited for.
        WITH lapsed AS (
            SELECT id FROM booking WHERE room_id = p_room AND during && p_during
            AND state IN ('held', 'confirmed') AND state = 'held' AND expires_at <= now()
            ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE booking SET state = 'expired' FROM lapsed WHERE booking.id = lapsed.id;
        -- ON CONFLICT, and not an exception that is caught: two plain inserts may each wait for the other, a deadlock.
        INSERT INTO booking (id, room_id, guest, during, expires_at)
        VALUES (p_id, p_room, p_guest, p_during, clock_timestamp() + p_hold)
        ON CONFLICT DO NOTHING RETURNING * INTO v_booking;
        IF FOUND THEN RETURN v_booking; END IF;
        SELECT * INTO v_booking FROM booking WHERE id = p_id; -- was it the same request that came first?
        IF NOT FOUND THEN RETURN NULL; END IF;
    END IF;
    IF (v_booking.room_id, v_booking.during, v_booking.guest) IS DISTINCT FROM (p_room, p_during, p_guest) THEN
        RAISE unique_violation
            USING MESSAGE = 'request ' || p_id || ' booked something else', CONSTRAINT = 'booking_request';
    END IF;
    RETURN v_booking;
END $$;

-- After the payment: 'confirmed', or why not ('expired': somebody else has the slot; 'cancelled'; NULL for an unknown
-- id): give the money back then. A lapsed hold is confirmed as long as nobody else has wanted its slot.
CREATE FUNCTION confirm(p_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE booking SET state = 'confirmed' WHERE id = p_id AND state = 'held';
    RETURN (SELECT state FROM booking WHERE id = p_id);
END $$;

-- Frees the slot; returns the state afterwards: 'cancelled', or 'expired'.
CREATE FUNCTION cancel(p_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE booking SET state = 'cancelled' WHERE id = p_id AND state IN ('held', 'confirmed');
    RETURN (SELECT state FROM booking WHERE id = p_id);
END $$;
