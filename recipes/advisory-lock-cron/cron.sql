-- What ran when. Load it into a schema of its own; cron.py calls the functions on the session that holds the lock.

CREATE TABLE job_run (
    job         text        NOT NULL,
    slot        timestamptz NOT NULL, -- the moment for which it runs, not the one at which
    state       text        NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed')),
    attempts    integer     NOT NULL DEFAULT 1,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    error       text,
    PRIMARY KEY (job, slot)
);

-- The next slot, and in how many seconds it begins. Slots are multiples of the period since 1970 in UTC. Of those that
-- were missed the newest p_catch_up are run. The clock that counts is this one: those of the replicas differ.
CREATE FUNCTION job_next(p_job text, p_period interval, p_catch_up integer, OUT slot timestamptz, OUT wait float8)
LANGUAGE plpgsql AS $$
DECLARE
    v_current timestamptz := date_bin(p_period, clock_timestamp(), 'epoch');
BEGIN
    SELECT coalesce(max(r.slot) FILTER (WHERE r.state <> 'running') + p_period, min(r.slot), v_current)
    INTO slot FROM job_run r WHERE r.job = p_job; -- a job that has never run begins with the slot of now
    slot := greatest(slot, v_current - (p_catch_up - 1) * p_period);
    wait := extract(epoch FROM slot - clock_timestamp());
END $$;

-- The number of the attempt, or NULL when the slot has ended, or has had all its attempts, none of which came back.
CREATE FUNCTION job_start(p_job text, p_slot timestamptz, p_attempts integer) RETURNS integer
LANGUAGE sql AS $$
    INSERT INTO job_run (job, slot) VALUES (p_job, p_slot)
    ON CONFLICT (job, slot) DO UPDATE
    SET attempts = least(job_run.attempts + 1, p_attempts), started_at = clock_timestamp(),
        state = CASE WHEN job_run.attempts < p_attempts THEN 'running' ELSE 'failed' END
    WHERE job_run.state = 'running' RETURNING CASE state WHEN 'running' THEN attempts END
$$;

-- True for whoever ends it: the writes of a run commit together with this, once.
CREATE FUNCTION job_end(p_job text, p_slot timestamptz, p_state text, p_error text DEFAULT NULL) RETURNS boolean
LANGUAGE sql AS $$
    UPDATE job_run SET state = p_state, error = p_error, finished_at = clock_timestamp()
    WHERE job = p_job AND slot = p_slot AND state = 'running' RETURNING true
$$;
