INSERT INTO events (job, n, at, kind, data)
SELECT id, events, $1, 'state', CAST($4 AS TEXT) || attempts || '}' FROM taken
