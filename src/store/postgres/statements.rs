//! What a turn on PostgreSQL says, as it is prepared on each connection.

/// Arguments that runs of some jobs have of their own.
pub const OWN_ARGUMENTS: &str = "SELECT run, arguments FROM promise WHERE job = ANY($1) AND arguments IS NOT NULL";

/// The statements of a turn, as they are prepared on each connection.
pub struct Statements {
    pub load: [String; 12],
    pub write: [String; 16],
}

/// The columns of jobs, and their types.
pub const JOB: &[(&str, &str)] = &[
    ("id", "text"),
    ("revision", "bigint"),
    ("lane", "text"),
    ("priority", "smallint"),
    ("line", "bigint"),
    ("ticket", "bigint"),
    ("alarm", "bigint"),
    ("wake", "bigint"),
    ("manual", "bigint"),
    ("asked", "bigint"),
    ("waiting", "boolean"),
    ("status", "smallint"),
    ("arguments", "boolean"),
    ("valued", "boolean"),
    ("state", "bytea"),
];
/// The columns of runs that are written, and their types.
pub const RUN: &[(&str, &str)] = &[
    ("id", "bytea"),
    ("job", "text"),
    ("scheduled", "bigint"),
    ("fire", "bigint"),
    ("revision", "bigint"),
    ("lease", "bigint"),
    ("ended", "boolean"),
    ("outcome", "smallint"),
    ("body", "bytea"),
];

/// Rows that come as one array for each column.
fn rows_of(types: &[(&str, &str)]) -> String {
    let params: Vec<String> = types.iter().zip(1..).map(|((_, kind), n)| format!("${n}::{kind}[]")).collect();
    format!("unnest({}) AS r({})", params.join(", "), names_of(types))
}

pub fn names_of(types: &[(&str, &str)]) -> String {
    types.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The next jobs that have something to do after now, by what that is.
fn upcoming(kind: i32, column: &str) -> String {
    let first = format!("SELECT id, {column} FROM job WHERE {column} > $1 ORDER BY {column} LIMIT $2");
    format!("SELECT {kind}, id, {column} FROM ({first}) f{kind}")
}

impl Statements {
    pub fn new() -> Self {
        let sets: Vec<String> = JOB[1..].iter().map(|(name, _)| format!("{name} = r.{name}")).collect();
        let job = names_of(JOB);
        let one_line = format!(
            "SELECT {job} FROM job WHERE lane = $1 AND priority = p.priority \
             AND (line, ticket, id) >= ($3, $4, $5) AND line <= $6 ORDER BY line, ticket, id LIMIT $7 \
             FOR UPDATE SKIP LOCKED"
        );
        let load = [
            "SELECT 1 FROM lease WHERE lease = $1 AND NOT fenced AND until > micros() FOR KEY SHARE".to_owned(),
            "SELECT 1 FROM turn WHERE lease = $1 FOR UPDATE".to_owned(),
            "UPDATE lease SET fenced = true FROM (SELECT fenced AS told FROM lease WHERE lease = $1 FOR NO KEY UPDATE) old \
             WHERE lease = $1 AND (fenced OR until <= micros()) RETURNING old.told"
                .to_owned(),
            format!("SELECT {job} FROM job WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"),
            format!(
                "SELECT j.* FROM unnest($2::smallint[]) WITH ORDINALITY AS p(priority, n), LATERAL ({one_line}) j LIMIT $7"
            ),
            "SELECT min(j.line) FROM unnest($2::smallint[]) AS p(priority), LATERAL (SELECT line FROM job \
             WHERE lane = $1 AND priority = p.priority AND (line, ticket, id) >= ($3, $4, $5) AND line IS NOT NULL \
             AND id <> ALL($6::text[]) \
             ORDER BY line, ticket, id LIMIT 1) j"
                .to_owned(),
            format!("SELECT {job} FROM job WHERE alarm <= $1 ORDER BY alarm LIMIT $2 FOR UPDATE SKIP LOCKED"),
            format!(
                "SELECT {job} FROM job WHERE wake <= $1 AND (wake > 0 OR lane = ANY($3::text[])) ORDER BY wake LIMIT $2 FOR UPDATE SKIP LOCKED"
            ),
            format!(
                "SELECT {job} FROM job WHERE manual <= $1 AND lane = ANY($3::text[]) ORDER BY manual LIMIT $2 FOR UPDATE SKIP LOCKED"
            ),
            [upcoming(0, "alarm"), upcoming(1, "wake"), upcoming(2, "manual")].join(" UNION ALL "),
            format!(
                "SELECT {job} FROM job WHERE (lane, priority) IN \
                 (SELECT * FROM unnest($1::text[], $2::smallint[])) AND line <= $3 LIMIT $4 FOR UPDATE SKIP LOCKED"
            ),
            "SELECT nextval('epoch'), (SELECT value FROM counter WHERE name = 'catalog')".to_owned(),
        ];
        let write = [
            format!("UPDATE job SET {} FROM {} WHERE job.id = r.id", sets.join(", "), rows_of(JOB)),
            format!(
                "INSERT INTO job ({names}) SELECT {names} FROM {rows} ON CONFLICT DO NOTHING RETURNING 1",
                names = names_of(JOB),
                rows = rows_of(JOB)
            ),
            "INSERT INTO level SELECT DISTINCT * FROM unnest($1::text[], $2::smallint[]) ON CONFLICT DO NOTHING"
                .to_owned(),
            "DELETE FROM job WHERE id = ANY($1::text[])".to_owned(),
            "DELETE FROM definition WHERE id = ANY($1::text[])".to_owned(),
            "INSERT INTO definition SELECT * FROM unnest($1::text[], $2::bytea[]) \
             ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                .to_owned(),
            format!("INSERT INTO run ({names}) SELECT {names} FROM {rows}", names = names_of(RUN), rows = rows_of(RUN)),
            format!(
                "INSERT INTO run ({names}) SELECT {names} FROM {rows} ON CONFLICT (id) DO UPDATE \
                 SET ended = excluded.ended, outcome = excluded.outcome, body = excluded.body",
                names = names_of(RUN),
                rows = rows_of(RUN)
            ),
            "INSERT INTO log SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT DO NOTHING".to_owned(),
            "INSERT INTO promise SELECT * FROM unnest($1::bytea[], $2::text[], $3::bytea[])".to_owned(),
            "DELETE FROM promise WHERE run = ANY($1::bytea[])".to_owned(),
            "DELETE FROM value WHERE job = ANY($1::text[])".to_owned(),
            "DELETE FROM value WHERE (job, key) IN (SELECT * FROM unnest($1::text[], $2::bytea[]))".to_owned(),
            "INSERT INTO value SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) \
             ON CONFLICT (job, key) DO UPDATE SET body = excluded.body"
                .to_owned(),
            "UPDATE run SET cancel = true WHERE id = ANY($1::bytea[]) AND NOT ended".to_owned(),
            "DELETE FROM run WHERE id = ANY($1::bytea[])".to_owned(),
        ];
        Statements { load, write }
    }
}
