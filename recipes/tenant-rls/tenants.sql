-- Tenants in shared tables, kept apart by row-level security. Run it as the role that runs migrations.
-- A new table takes over the five marked lines; shop.tenant_leaks() finds what somebody forgot: run it in CI.

DO $$ BEGIN
    IF to_regrole('shop_owner') IS NULL THEN CREATE ROLE shop_owner NOLOGIN; END IF;
    IF to_regrole('shop_app') IS NULL THEN CREATE ROLE shop_app LOGIN NOSUPERUSER NOBYPASSRLS; END IF;
END $$;
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO shop_app, shop_owner;

-- A missing tenant is an error, never an empty page. After a transaction that had set it, the setting is '' and not NULL.
CREATE FUNCTION shop.current_tenant() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF coalesce(current_setting('app.tenant', true), '') = '' THEN
        RAISE insufficient_privilege USING MESSAGE = 'no tenant is set in this transaction';
    END IF;
    RETURN current_setting('app.tenant')::uuid;
END $$;

CREATE TABLE shop.customer (
    tenant_id uuid NOT NULL DEFAULT shop.current_tenant(), -- (1)
    id        uuid NOT NULL DEFAULT gen_random_uuid(),
    email     text NOT NULL,
    PRIMARY KEY (tenant_id, id), -- (2) in every unique key, or a refused value tells that another tenant has it
    UNIQUE (tenant_id, email)
);
CREATE TABLE shop.invoice (
    tenant_id   uuid NOT NULL DEFAULT shop.current_tenant(),
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    customer_id uuid NOT NULL,
    total       integer NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES shop.customer (tenant_id, id) -- (3) its checks ignore policies
);
CREATE INDEX ON shop.invoice (tenant_id, customer_id);

-- (4) FORCE, for otherwise the owner's functions and jobs see everything. The subquery is computed once for a statement.
ALTER TABLE shop.customer OWNER TO shop_owner, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON shop.customer USING (tenant_id = (SELECT shop.current_tenant()))
    WITH CHECK (tenant_id = (SELECT shop.current_tenant())); -- for rows written
ALTER TABLE shop.invoice OWNER TO shop_owner, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON shop.invoice USING (tenant_id = (SELECT shop.current_tenant()))
    WITH CHECK (tenant_id = (SELECT shop.current_tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON shop.customer, shop.invoice TO shop_app; -- (5) not TRUNCATE: it ignores policies

-- Without security_invoker a view reads with the rights of its owner, here of the role that runs migrations.
CREATE VIEW shop.turnover WITH (security_invoker = true) AS
    SELECT email, sum(total) AS total FROM shop.customer JOIN shop.invoice ON customer_id = customer.id GROUP BY email;
GRANT SELECT ON shop.turnover TO shop_app;

-- SECURITY DEFINER runs with its owner's rights: give it to a role that obeys the policies.
CREATE FUNCTION shop.erase_customer(p_id uuid) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
    DELETE FROM shop.invoice WHERE customer_id = p_id;
    WITH erased AS (DELETE FROM shop.customer WHERE id = p_id RETURNING 1) SELECT count(*) FROM erased;
$$;
ALTER FUNCTION shop.erase_customer(uuid) OWNER TO shop_owner;

-- Ways around the policies, one a row. No row: none of these.
CREATE FUNCTION shop.tenant_leaks() RETURNS TABLE (object text, leak text) LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH relation AS (
        SELECT c.*, c.oid::regclass::text AS name, a.attnum AS tenant_column
        FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'shop'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    )
    SELECT name, 'no tenant_id; where that is meant, COMMENT ON TABLE IS ''shared by all tenants''' FROM relation
    WHERE relkind IN ('r', 'p', 'f') AND tenant_column IS NULL
      AND coalesce(obj_description(oid, 'pg_class'), '') NOT LIKE 'shared by all tenants%'
    UNION ALL
    SELECT name, 'tenant_id may be NULL' FROM relation JOIN pg_attribute ON attrelid = relation.oid
    WHERE relkind IN ('r', 'p') AND attnum = tenant_column AND NOT attnotnull
    UNION ALL
    SELECT name, 'row-level security is not enabled and forced' FROM relation -- of partitions too: they can be named
    WHERE relkind IN ('r', 'p') AND tenant_column IS NOT NULL AND NOT (relrowsecurity AND relforcerowsecurity)
    UNION ALL
    SELECT name, 'policy ' || policyname || ' is not the tenant''s; make further conditions RESTRICTIVE' FROM relation
    JOIN pg_policies ON schemaname = 'shop' AND tablename = relname AND permissive = 'PERMISSIVE' -- these are joined by OR
    CROSS JOIN (VALUES ('(tenant_id = ( SELECT shop.current_tenant() AS current_tenant))')) AS tenant (condition)
    WHERE coalesce(qual, with_check) <> condition OR coalesce(with_check, qual) <> condition
    UNION ALL
    SELECT name, 'unique without tenant_id: ' || indexrelid::regclass FROM relation JOIN pg_index ON indrelid = oid
    WHERE tenant_column IS NOT NULL AND indisunique AND tenant_column <> ALL (indkey[0:indnkeyatts - 1])
    UNION ALL
    SELECT name, 'foreign key without tenant_id: ' || conname FROM relation
    JOIN pg_constraint ON conrelid = relation.oid AND contype = 'f' AND tenant_column <> ALL (conkey)
    WHERE confrelid IN (SELECT oid FROM relation WHERE tenant_column IS NOT NULL)
    UNION ALL
    SELECT name, 'view without security_invoker' FROM relation
    WHERE relkind = 'v' AND NOT coalesce(reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)
    UNION ALL
    SELECT name, 'materialized views have no policies' FROM relation
    WHERE relkind = 'm' AND has_table_privilege('shop_app', oid, 'SELECT')
    UNION ALL
    SELECT name, 'shop_app may TRUNCATE or REFERENCE it' FROM relation
    WHERE relkind IN ('r', 'p') AND has_table_privilege('shop_app', oid, 'TRUNCATE, REFERENCES')
    UNION ALL
    SELECT p.oid::regprocedure::text, 'SECURITY DEFINER, and its owner ' || rolname || ' obeys no policy'
    FROM pg_proc p JOIN pg_roles r ON r.oid = proowner
    WHERE pronamespace = 'shop'::regnamespace AND prosecdef AND (rolsuper OR rolbypassrls)
    UNION ALL
    SELECT rolname, 'shop_app is or can become this role, which obeys no policy or owns tables' FROM pg_roles
    WHERE pg_has_role('shop_app', oid, 'MEMBER')
      AND (rolsuper OR rolbypassrls OR oid IN (SELECT relowner FROM relation))
    ORDER BY 1, 2;
$$;
