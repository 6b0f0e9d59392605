-- One row for each payment that a client asked for, under the key that the client chose.
CREATE TABLE payment (
    account      text NOT NULL,  -- keys are the client's own: without this, clients read each other's answers
    key          text NOT NULL,
    request      jsonb NOT NULL,
    provider_key uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,  -- the same in every call to the provider
    state        text NOT NULL DEFAULT 'started' CHECK (state IN ('started', 'unknown', 'succeeded', 'failed')),
    status       smallint,  -- the answer, stored once and repeated for ever
    body         text,
    check_at     timestamptz NOT NULL,  -- when the recovery asks the provider; for 'started', when its lease ends
    checks       integer NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, key),
    CHECK ((state IN ('succeeded', 'failed')) = (status IS NOT NULL AND body IS NOT NULL))
);
CREATE INDEX payment_open ON payment (check_at) WHERE state IN ('started', 'unknown');

-- A settled payment never changes: whoever comes late, with whatever he believes, changes nothing.
CREATE FUNCTION payment_settle(p_state text, p_status integer, p_body text, p_provider_key uuid) RETURNS void
LANGUAGE sql AS $$
    UPDATE payment SET state = p_state, status = p_status, body = p_body
    WHERE provider_key = p_provider_key AND state IN ('started', 'unknown');
$$;

CREATE FUNCTION payment_doubt(p_provider_key uuid, p_recheck float8) RETURNS void LANGUAGE sql AS $$
    UPDATE payment SET state = 'unknown', check_at = now() + make_interval(secs => p_recheck)
    WHERE provider_key = p_provider_key AND state = 'started';
$$;

-- Up to ten payments to ask about, those of dead processes among them, unknown from now on, which nobody else gets before p_least seconds, and each time twice as late.
CREATE FUNCTION payment_due(p_least float8, p_recheck float8, p_resume_for interval)
RETURNS TABLE (provider_key uuid, request jsonb, resume boolean) LANGUAGE sql AS $$
    UPDATE payment SET state = 'unknown', checks = checks + 1, check_at =
        now() + make_interval(secs => greatest(p_least, least(3600, p_recheck * 2 ^ least(checks + 1, 20))))
    WHERE payment.provider_key = ANY (ARRAY(
        SELECT due.provider_key FROM payment due WHERE state IN ('started', 'unknown') AND check_at <= now()
        ORDER BY check_at LIMIT 10 FOR UPDATE SKIP LOCKED))
    RETURNING payment.provider_key, payment.request, created_at > now() - p_resume_for;
$$;
