-- One schema for both databases: BIGINT is milliseconds since 1970 or a count, TEXT is UTF-8 or JSON.
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    max_running BIGINT NOT NULL,
    -- Grows with every claim: who was served longest ago has the lowest.
    served BIGINT NOT NULL
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (name),
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    priority BIGINT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    attempts BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until BIGINT,
    run_at BIGINT NOT NULL,
    progress TEXT,
    result TEXT,
    error TEXT,
    retry_of TEXT,
    events BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    CHECK (attempts <= max_attempts),
    CHECK ((state IN ('running', 'cancelling')) = (lease_until IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
-- One active job per tenant, recipe, source and target.
CREATE UNIQUE INDEX jobs_active ON jobs (tenant, key) WHERE state IN ('queued', 'running', 'cancelling');
CREATE INDEX jobs_waiting ON jobs (tenant, priority DESC, created_at, id) WHERE state = 'queued';
CREATE INDEX jobs_later ON jobs (run_at) WHERE state = 'queued';
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state IN ('running', 'cancelling');
CREATE INDEX jobs_of_tenant ON jobs (tenant, id);
CREATE INDEX jobs_succeeded ON jobs (tenant, key, finished_at) WHERE state = 'succeeded';
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
-- Append-only: the events of a job are numbered from 1 without gaps, in the order of their commits.
CREATE TABLE events (
    job TEXT NOT NULL,
    n BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, n)
);
-- What was submitted under an Idempotency-Key.
CREATE TABLE submissions (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    job TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE TABLE workers (
    name TEXT PRIMARY KEY,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    job TEXT
);
