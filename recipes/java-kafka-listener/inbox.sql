CREATE TABLE inbox (
    consumer text NOT NULL, -- another consumer of the same events has rows of its own
    event_id uuid NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at); -- for the purge, in order of arrival
