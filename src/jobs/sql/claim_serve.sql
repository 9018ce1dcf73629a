UPDATE tenants SET served = (SELECT max(served) + 1 FROM tenants) WHERE name = (SELECT tenant FROM picked) RETURNING name
