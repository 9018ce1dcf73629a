INSERT INTO jobs (id, tenant, kind, key, request, priority, state, max_attempts, run_at, retry_of, created_at)
VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, $9, $8)
ON CONFLICT DO NOTHING
