-- A transactional outbox. In the transaction that makes the event true:
--   INSERT INTO outbox (aggregate_type, aggregate_id, type, payload) VALUES ('order', '7', 'OrderPlaced', '{"total": 5}');

CREATE SEQUENCE outbox_position;

CREATE TABLE outbox (
    position       bigint PRIMARY KEY,  -- given by the trigger
    id             uuid NOT NULL DEFAULT uuidv7(),  -- of the event: consumers recognise a repetition by it
    aggregate_type text NOT NULL,
    aggregate_id   text NOT NULL,
    type           text NOT NULL,
    payload        jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    published_at   timestamptz
);
-- The relay reads what is not marked, never "position > last": a lower position may commit after a higher one.
CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;

-- Whoever writes an event of an aggregate waits for those who wrote one and have not committed. Only then is the
-- position taken, so that within an aggregate the positions follow the commits, whatever else the writers lock.
CREATE FUNCTION outbox_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.aggregate_type || ' ' || NEW.aggregate_id, 0));
    NEW.position := nextval('outbox_position');
    RETURN NEW;
END $$;
CREATE TRIGGER outbox_in_order BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION outbox_in_order();
