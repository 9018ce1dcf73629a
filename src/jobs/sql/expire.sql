-- Only while nobody has renewed the lease since it was found expired.
UPDATE jobs
SET state = $3, worker = NULL, lease_until = NULL, run_at = $4, error = $5, finished_at = $6
WHERE id = $1 AND epoch = $2 AND state = $7 AND lease_until < $8
RETURNING id
