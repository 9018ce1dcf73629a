UPDATE jobs SET lease_until = $3 WHERE id = $1 AND epoch = $2 AND state = 'running' RETURNING id
