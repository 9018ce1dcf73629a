-- Jobs that are done in parts: the job that a part is of, how many parts a job has, and how many of them it waits for.
ALTER TABLE jobs ADD COLUMN parent TEXT;
ALTER TABLE jobs ADD COLUMN parts BIGINT;
ALTER TABLE jobs ADD COLUMN waits BIGINT;
CREATE INDEX jobs_of_parent ON jobs (parent) WHERE parent IS NOT NULL;
