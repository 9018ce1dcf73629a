-- The row is counted the event that tells of it.
UPDATE jobs
SET state = 'running', epoch = epoch + 1, attempts = attempts + 1, worker = $2, lease_until = $3,
    started_at = coalesce(started_at, $1), events = events + 1
WHERE id = (SELECT id FROM picked) AND state = 'queued'
RETURNING id, tenant, kind, key, request, priority, state, attempts, max_attempts, epoch, worker, lease_until, run_at,
    progress, result, error, retry_of, events, created_at, started_at, finished_at, parent, parts
