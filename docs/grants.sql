-- The minimal grants for the database role of PostgresWriter. Run it as the owner of the tables, for example:
--   psql -v role=postgres_writer -v database=school -v schema=public -v table=students -f grants.sql
-- The role itself (with a password of your own):
--   CREATE ROLE postgres_writer LOGIN PASSWORD '...';
\set ON_ERROR_STOP on

GRANT CONNECT ON DATABASE :"database" TO :"role";
GRANT USAGE ON SCHEMA :"schema" TO :"role";

-- SELECT to compare before it writes, INSERT and UPDATE to write, DELETE to remove. Repeat for every table that
-- spec.table may name, and leave the others out: what the role may not write, no PostgresWriter can reach.
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE :"schema".:"table" TO :"role";

-- Instead, grants on single columns, for PostgresRows that share a table with others: add
--   -v id=id -v columns='plan, seats'
-- (the column for the id, and those that spec.columns may name; their names as in SQL).
\if :{?columns}
REVOKE SELECT, INSERT, UPDATE ON TABLE :"schema".:"table" FROM :"role";
GRANT SELECT (:"id", :columns), INSERT (:"id", :columns), UPDATE (:columns) ON TABLE :"schema".:"table" TO :"role";
\endif

-- Only where row-level security applies to the role, it needs BYPASSRLS or the rights of the owner as well. Not needed, and
-- not recommended: ownership, TRUNCATE, REFERENCES, TRIGGER, CREATE on schema or database, membership in other roles. For `postgres-writer audit` a role with only USAGE and SELECT is sufficient.
