-- Renews the lease, notes the progress and tells whether to cancel, in one statement.
UPDATE jobs
SET lease_until = $3, progress = coalesce($4, progress)
WHERE id = $1 AND epoch = $2 AND state IN ('running', 'cancelling')
RETURNING state
