-- One inbox for each provider. Keep events for longer than the provider repeats them (often days): the key is what
-- makes a repetition harmless. Then delete in batches WHERE state IN ('done', 'ignored') AND received_at < ...
CREATE TABLE inbox (
    event_id text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL,  -- as it was signed; jsonb would lose key order, duplicate keys and digits
    state text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'done', 'ignored', 'rejected', 'failed')),
    note text NOT NULL DEFAULT '',
    attempts int NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_due ON inbox (run_at) WHERE state = 'new';

-- What the example of an effect works on: replace it with your own.
CREATE TABLE orders (
    id text PRIMARY KEY,
    amount bigint NOT NULL,  -- in the currency's smallest unit
    currency text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'paid', 'failed'))
);
