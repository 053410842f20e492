-- A table that PostgresWriters can be written to: these four columns, id unique. Other columns need a default.
CREATE TABLE IF NOT EXISTS students (
    id      text PRIMARY KEY,
    name    text NOT NULL,
    age     integer NOT NULL,
    country text NOT NULL
);
