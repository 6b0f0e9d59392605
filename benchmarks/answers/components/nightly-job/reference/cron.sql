ALTER TABLE job_run ADD COLUMN IF NOT EXISTS due_at timestamptz;

-- Begins what is to be run, and says what is to be called now: the number of a call counts from before the call.
-- The clock that counts is this one: those of the replicas differ. A call that was begun and has not come back is called
-- again when p_quiet has passed, since until then the upstream may be at work on it.
CREATE OR REPLACE FUNCTION job_claim(
    p_replica text, p_period bigint, p_catch_up bigint, p_attempts integer, p_quiet float8
) RETURNS TABLE (o_slot bigint, o_attempt integer) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_current bigint := floor(extract(epoch FROM v_now) / p_period)::bigint * p_period;
BEGIN
    INSERT INTO job_run (slot, status, due_at)
    SELECT s, 'running', v_now FROM generate_series(v_current - p_catch_up * p_period, v_current, p_period) AS s
    WHERE s = v_current OR s > (SELECT min(r.slot) FROM job_run r)
    ON CONFLICT DO NOTHING;
    UPDATE job_run r SET status = 'failed', error = coalesce(r.error, 'the last call did not come back'),
        finished_at = v_now
    WHERE r.status = 'running' AND r.due_at <= v_now AND r.attempts >= p_attempts;
    RETURN QUERY UPDATE job_run r SET attempts = r.attempts + 1, replica = p_replica, error = NULL,
        due_at = v_now + p_quiet * interval '1 second'
    WHERE r.status = 'running' AND r.due_at <= v_now RETURNING r.slot, r.attempts;
END $$;

-- True for whoever ends it, once.
CREATE OR REPLACE FUNCTION job_done(p_slot bigint, p_result jsonb) RETURNS boolean LANGUAGE sql AS $$
    UPDATE job_run SET status = 'succeeded', result = p_result, error = NULL, finished_at = clock_timestamp()
    WHERE slot = p_slot AND status = 'running' RETURNING true
$$;

CREATE OR REPLACE FUNCTION job_failed(
    p_slot bigint, p_attempt integer, p_attempts integer, p_error text, p_retry float8
) RETURNS boolean LANGUAGE sql AS $$
    UPDATE job_run SET status = CASE WHEN attempts < p_attempts THEN 'running' ELSE 'failed' END,
        error = CASE WHEN attempts < p_attempts THEN NULL ELSE p_error END,
        finished_at = CASE WHEN attempts < p_attempts THEN NULL ELSE clock_timestamp() END,
        due_at = clock_timestamp() + p_retry * interval '1 second'
    WHERE slot = p_slot AND status = 'running' AND attempts = p_attempt RETURNING true
$$;
