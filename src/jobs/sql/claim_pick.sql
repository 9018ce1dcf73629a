-- The first due job of the tenant with the fewest running jobs; among equals, of the one served longest ago.
SELECT job.id, job.tenant
FROM tenants AS tenant
JOIN jobs AS job ON job.id = (
    SELECT waiting.id FROM jobs AS waiting
    WHERE waiting.tenant = tenant.name AND waiting.state = 'queued' AND waiting.run_at <= $1 AND waiting.waits IS NULL
    ORDER BY waiting.priority DESC, waiting.created_at, waiting.id
    LIMIT 1
)
LEFT JOIN (
    SELECT tenant AS name, count(*) AS jobs FROM jobs
    WHERE state IN ('running', 'cancelling') GROUP BY tenant
) AS running ON running.name = tenant.name
WHERE coalesce(running.jobs, 0) < tenant.max_running
ORDER BY coalesce(running.jobs, 0), tenant.served, tenant.name
LIMIT 1
