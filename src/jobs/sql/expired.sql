SELECT id, epoch, state, attempts, max_attempts FROM jobs
WHERE state IN ('running', 'cancelling') AND lease_until < $1
ORDER BY id
LIMIT 100
