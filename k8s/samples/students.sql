-- A table for PostgresWriters needs these four columns, with id as primary key. Other columns must be nullable or have a
-- default.
CREATE TABLE IF NOT EXISTS students (
    id      text PRIMARY KEY,
    name    text NOT NULL,
    age     integer NOT NULL,
    country text NOT NULL
);
