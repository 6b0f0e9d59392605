-- A job queue: a row is a job that waits or runs. Finished jobs are deleted, hopeless ones moved to job_dead.
-- Enqueue in the transaction that makes the job necessary:
--   INSERT INTO job (kind, payload) VALUES ('welcome_mail', '{"user": 7}');

CREATE SEQUENCE job_lease;  -- grows with every claim, so that whatever a job writes to can refuse an older claim

CREATE TABLE job (
    id           uuid PRIMARY KEY DEFAULT uuidv7(),  -- the same in every attempt: the idempotency key for calls to others
    queue        text NOT NULL DEFAULT 'default',
    kind         text NOT NULL,
    payload      jsonb NOT NULL,
    run_at       timestamptz NOT NULL DEFAULT now(),  -- not before; while a worker has it, when its lease ends
    attempts     integer NOT NULL DEFAULT 0,  -- counted at the claim, so that an attempt that kills its worker counts
    max_attempts integer NOT NULL DEFAULT 5 CHECK (max_attempts > 0),
    lease        bigint,  -- of the worker that has it; whoever shows another number changes nothing
    error        text,
    created_at   timestamptz NOT NULL DEFAULT now()
);
-- One index finds what is due and what dead workers left: both have a run_at in the past.
CREATE INDEX job_due ON job (queue, run_at);

CREATE TABLE job_dead (
    id           uuid PRIMARY KEY,
    queue        text NOT NULL,
    kind         text NOT NULL,
    payload      jsonb NOT NULL,
    attempts     integer NOT NULL,
    max_attempts integer NOT NULL,
    error        text NOT NULL,
    created_at   timestamptz NOT NULL,
    died_at      timestamptz NOT NULL DEFAULT now()
);

-- Take up to so many jobs for so many seconds. What used up its attempts without an answer is buried on the way.
CREATE FUNCTION job_claim(p_queue text, p_free integer, p_seconds float8) RETURNS SETOF job LANGUAGE sql AS $$
    WITH picked AS MATERIALIZED (
        SELECT id, attempts < max_attempts AS alive FROM job WHERE queue = p_queue AND run_at <= now()
        ORDER BY run_at LIMIT p_free FOR UPDATE SKIP LOCKED
    ), dead AS (
        DELETE FROM job USING picked WHERE job.id = picked.id AND NOT alive RETURNING job.*
    ), buried AS (
        INSERT INTO job_dead (id, queue, kind, payload, attempts, max_attempts, error, created_at)
        SELECT id, queue, kind, payload, attempts, max_attempts,
               concat_ws('; before that ', 'the worker died or was cut off', error), created_at FROM dead
    )
    UPDATE job SET lease = nextval('job_lease'), attempts = attempts + 1, run_at = now() + make_interval(secs => p_seconds)
    FROM picked WHERE job.id = picked.id AND alive RETURNING job.*;
$$;

-- The leases, of those shown, that still hold: they end so many seconds from now.
CREATE FUNCTION job_renew(p_ids uuid[], p_leases bigint[], p_seconds float8) RETURNS SETOF bigint LANGUAGE sql AS $$
    UPDATE job SET run_at = now() + make_interval(secs => p_seconds)
    WHERE id = ANY (p_ids) AND lease = ANY (p_leases) RETURNING lease;
$$;

-- Call it first in the transaction that saves the result; roll back when it says false: somebody else has the job.
CREATE FUNCTION job_end(p_id uuid, p_lease bigint) RETURNS boolean LANGUAGE sql AS $$
    WITH ended AS (DELETE FROM job WHERE id = p_id AND lease = p_lease RETURNING 1) SELECT EXISTS (SELECT FROM ended);
$$;

-- Another attempt after so many seconds; without seconds, or after the last attempt, to the dead letters.
CREATE FUNCTION job_fail(p_id uuid, p_lease bigint, p_error text, p_seconds float8) RETURNS void LANGUAGE sql AS $$
    WITH dead AS (
        DELETE FROM job WHERE id = p_id AND lease = p_lease AND (p_seconds IS NULL OR attempts >= max_attempts) RETURNING *
    ), buried AS (
        INSERT INTO job_dead (id, queue, kind, payload, attempts, max_attempts, error, created_at)
        SELECT id, queue, kind, payload, attempts, max_attempts, p_error, created_at FROM dead
    )
    UPDATE job SET run_at = now() + make_interval(secs => p_seconds), lease = NULL, error = p_error
    WHERE id = p_id AND lease = p_lease AND p_seconds IS NOT NULL AND attempts < max_attempts;
$$;

-- For a worker that shuts down: somebody else may begin at once, and the attempt does not count.
CREATE FUNCTION job_give_back(p_id uuid, p_lease bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE job SET run_at = now(), lease = NULL, attempts = attempts - 1 WHERE id = p_id AND lease = p_lease;
$$;

-- Put a dead letter back, with all its attempts, under its old id; false when it is not among the dead.
CREATE FUNCTION job_requeue(p_id uuid) RETURNS boolean LANGUAGE sql AS $$
    WITH dead AS (DELETE FROM job_dead WHERE id = p_id RETURNING *),
         back AS (INSERT INTO job (id, queue, kind, payload, max_attempts, error, created_at)
                  SELECT id, queue, kind, payload, max_attempts, error, created_at FROM dead RETURNING 1)
    SELECT EXISTS (SELECT FROM back);
$$;
