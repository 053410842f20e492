"""What someone else plants in the search_path of a role, to take over what a statement does not qualify."""

from __future__ import annotations

DOUBLES = r"""
    CREATE SCHEMA planted;
    DO $do$
    DECLARE one record;
    BEGIN
        FOR one IN SELECT p.proname, (SELECT string_agg(t::regtype::text, ', ' ORDER BY n)
            FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, n)) AS arguments FROM pg_proc AS p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0
            AND NOT EXISTS (SELECT FROM pg_type AS t WHERE t.oid = ANY (p.proargtypes) AND t.typtype = 'p')
        LOOP
            EXECUTE format($$CREATE FUNCTION planted.%I(%s) RETURNS text LANGUAGE plpgsql AS
                'BEGIN RAISE ''planted''; END'$$, one.proname, one.arguments);
        END LOOP;
        FOR one IN SELECT o.oprname, o.oid, o.oprleft::regtype AS l, o.oprright::regtype AS r FROM pg_operator AS o
            WHERE o.oprkind = 'b' AND NOT EXISTS (SELECT FROM pg_type AS t
            WHERE t.oid IN (o.oprleft, o.oprright) AND t.typtype = 'p')
        LOOP
            EXECUTE format($$CREATE FUNCTION planted.double_%s(%s, %s) RETURNS boolean LANGUAGE plpgsql AS
                'BEGIN RAISE ''planted''; END'$$, one.oid, one.l, one.r);
            EXECUTE format('CREATE OPERATOR planted.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = planted.double_%s)',
                one.oprname, one.l, one.r, one.oid);
        END LOOP;
    END $do$
"""
"""A schema ``planted`` with a double, which fails, of each function and operator of PostgreSQL but polymorphic ones."""
