UPDATE jobs
SET state = 'running', epoch = epoch + 1, attempts = attempts + 1, worker = $2, lease_until = $3,
    started_at = coalesce(started_at, $4)
WHERE id = $1 AND state = 'queued'
RETURNING id
