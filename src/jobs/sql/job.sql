SELECT id, tenant, kind, key, request, priority, state, attempts, max_attempts, epoch, worker, lease_until, run_at,
    progress, result, error, retry_of, events, created_at, started_at, finished_at, parent, parts
FROM jobs
