UPDATE jobs
SET state = $3, worker = NULL, lease_until = NULL, run_at = $4, attempts = attempts - $5,
    result = $6, error = $7, finished_at = $8
WHERE id = $1 AND epoch = $2 AND state = $9
RETURNING id
