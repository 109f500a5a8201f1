//! The tables, and how older ones become them.

/// Each step is applied once, in order, and never changed after it was released.
pub const MIGRATIONS: &[&str] = &["
CREATE FUNCTION micros() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

CREATE TABLE counter (name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO counter VALUES ('event', 0), ('catalog', 0);
CREATE SEQUENCE epoch;
CREATE SEQUENCE lease_number;

CREATE TABLE lease (
    lease bigint PRIMARY KEY,
    node text NOT NULL,
    lanes text[] NOT NULL,
    until bigint NOT NULL,
    fenced boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE turn (
    lease bigint PRIMARY KEY,
    number bigint NOT NULL,
    first_event bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE job (
    id text COLLATE \"C\" PRIMARY KEY,
    revision bigint NOT NULL,
    lane text COLLATE \"C\" NOT NULL,
    priority smallint NOT NULL,
    line bigint,
    ticket bigint NOT NULL,
    alarm bigint,
    wake bigint,
    manual bigint,
    asked bigint,
    waiting boolean NOT NULL,
    status smallint NOT NULL,
    arguments boolean NOT NULL,
    valued boolean NOT NULL,
    state bytea NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX job_line ON job (lane, priority, line, ticket, id) WHERE line IS NOT NULL;
CREATE INDEX job_alarm ON job (alarm) WHERE alarm IS NOT NULL;
CREATE INDEX job_wake ON job (wake) WHERE wake IS NOT NULL;
CREATE INDEX job_manual ON job (manual) WHERE manual IS NOT NULL;
CREATE INDEX job_asked ON job (asked) WHERE asked IS NOT NULL;
CREATE INDEX job_status ON job (status) WHERE status <> 0;

CREATE TABLE level (lane text COLLATE \"C\", priority smallint, PRIMARY KEY (lane, priority));
CREATE TABLE definition (id text COLLATE \"C\" PRIMARY KEY, body bytea NOT NULL);

CREATE TABLE run (
    id bytea PRIMARY KEY,
    job text COLLATE \"C\" NOT NULL,
    scheduled bigint NOT NULL,
    fire bigint,
    revision bigint NOT NULL,
    lease bigint NOT NULL,
    ended boolean NOT NULL,
    outcome smallint,
    cancel boolean NOT NULL DEFAULT false,
    body bytea NOT NULL
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX run_fire ON run (job, fire, revision) WHERE fire IS NOT NULL;
CREATE INDEX run_job ON run (job, id);
CREATE INDEX run_lease ON run (lease) WHERE NOT ended;

CREATE TABLE log (run bytea PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE promise (run bytea PRIMARY KEY, job text COLLATE \"C\" NOT NULL, arguments bytea);
CREATE INDEX promise_job ON promise (job);
CREATE TABLE value (job text COLLATE \"C\", key bytea, body bytea NOT NULL, PRIMARY KEY (job, key));
CREATE TABLE event (first bigint PRIMARY KEY, count bigint NOT NULL, body bytea NOT NULL);
CREATE TABLE record (
    kind text COLLATE \"C\",
    key text COLLATE \"C\",
    body bytea NOT NULL,
    written bigint NOT NULL,
    PRIMARY KEY (kind, key)
);
"];
