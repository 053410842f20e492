-- A table for PostgresRows needs a text column with a primary key or unique constraint for the id; the others are up to you.
-- Columns that no resource names must be nullable or have a default.
CREATE TABLE IF NOT EXISTS tenants (
    id         text PRIMARY KEY,
    plan       text NOT NULL DEFAULT 'free',
    seats      integer NOT NULL DEFAULT 1,
    limits     jsonb,
    regions    text[],
    trial_ends timestamptz
);
