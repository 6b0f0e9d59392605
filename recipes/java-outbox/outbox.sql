-- Events wait here until the relay has the broker's acknowledgement.
CREATE SEQUENCE outbox_position;

CREATE TABLE outbox (
    position   bigint PRIMARY KEY,            -- given by the trigger
    id         uuid NOT NULL DEFAULT uuidv7(), -- of the event: consumers recognise a repetition by it
    aggregate  text NOT NULL,                 -- the key of the record: 'order/7'
    type       text NOT NULL,
    payload    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz,
    attempts   int NOT NULL DEFAULT 0,        -- that the broker refused
    next_at    timestamptz,                   -- of a refused event: not before
    last_error text,
    lane       int NOT NULL GENERATED ALWAYS AS (hashtextextended(aggregate, 0) & 15) STORED
);
CREATE INDEX outbox_waiting ON outbox (lane, position) WHERE sent_at IS NULL;
CREATE INDEX outbox_refused ON outbox (aggregate, next_at) WHERE next_at IS NOT NULL;

-- A relay locks a lane, not events: of one aggregate it must have all or none, and writers never wait for it.
CREATE TABLE outbox_lane (lane int PRIMARY KEY);
INSERT INTO outbox_lane SELECT generate_series(0, 15);

-- Whoever writes an event of an aggregate waits for those who wrote one and have not committed. Only then is the
-- position taken, so that within an aggregate positions follow commits.
CREATE FUNCTION outbox_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(new.aggregate, 0));
    new.position := nextval('outbox_position');
    RETURN new;
END $$;
CREATE TRIGGER outbox_in_order BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION outbox_in_order();
