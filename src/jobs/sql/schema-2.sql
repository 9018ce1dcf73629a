-- How many jobs of each tenant run: asked by every claim, whatever else there is.
CREATE INDEX jobs_busy ON jobs (tenant) WHERE state IN ('running', 'cancelling');
-- Who wants to be told of a tenant's jobs, and what each is to be told.
CREATE TABLE hooks (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    -- States of jobs with a comma on either side: ,failed,succeeded,
    states TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Set where its target is gone: nothing more is sent.
    disabled_at BIGINT
);
CREATE INDEX hooks_of_tenant ON hooks (tenant, id);
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    hook TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    -- When it is sent next; none once it is over.
    due_at BIGINT,
    delivered_at BIGINT,
    -- What the last attempt came to.
    status BIGINT,
    error TEXT
);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_of_hook ON deliveries (hook, id);
-- Who did what, for operators.
CREATE TABLE audit (
    n TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    who TEXT NOT NULL,
    did TEXT NOT NULL,
    what TEXT NOT NULL
);
