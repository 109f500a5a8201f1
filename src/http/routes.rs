//! Every operation of the API, each once: from this table come the routes, who may call them, the
//! audit log's names, and the OpenAPI document.

use super::access::Access::{self, Grant, None as Public, Operate, Read};
use super::operation::{Body, Operation};
use super::{
    LOGIN, audit_log, backup, bundle, doctor, events, grants, jobs, listeners, logs, nodes, plugins, runs, secrets,
    session, simulate, system, timeline,
};
use crate::sandbox::COMPONENT_BYTES_MAX;
use axum::http::Method;

const USED: &[u16] = &[409];

macro_rules! operation {
    ($method:ident $path:literal $id:expr, $access:expr, $handler:path, $about:literal) => {
        Operation::new(Method::$method, $path, $id, $access, $handler).about($about)
    };
}

/// The table.
pub fn operations() -> Vec<Operation> {
    let mut all = jobs_and_runs();
    all.extend(plugins_and_grants());
    all.extend(scheduler_and_daemon());
    all
}

fn jobs_and_runs() -> Vec<Operation> {
    vec![
        operation!(GET "/v1/jobs" "list_jobs", Read, jobs::list, "Jobs by id"),
        operation!(POST "/v1/jobs" "add_job", Operate, jobs::add, "Add a job, checked against its function's types"),
        operation!(DELETE "/v1/jobs" "remove_all_jobs", Operate, jobs::remove_all, "Remove all jobs of a job store"),
        operation!(GET "/v1/jobs/{id}" "get_job", Read, jobs::show, "One job"),
        operation!(PATCH "/v1/jobs/{id}" "modify_job", Operate, jobs::modify, "Change the fields that are given, all or none"),
        operation!(DELETE "/v1/jobs/{id}" "remove_job", Operate, jobs::remove, "Remove a job; runs that go on end first"),
        operation!(POST "/v1/jobs/{id}/pause" "pause_job", Operate, jobs::pause, "No fire times until it is resumed"),
        operation!(POST "/v1/jobs/{id}/resume" "resume_job", Operate, jobs::resume, "Fire again"),
        operation!(POST "/v1/jobs/{id}/run" "run_job", Operate, jobs::run, "Ask for a run now, perhaps with other arguments"),
        operation!(POST "/v1/jobs/{id}/backfill" "backfill_job", Operate, jobs::backfill, "A run for each fire time of a past range"),
        operation!(DELETE "/v1/jobs/{id}/backfill" "cancel_backfill", Operate, jobs::cancel_backfill, "End a backfill that goes on"),
        operation!(GET "/v1/jobs/{id}/state" "get_job_state", Operate, jobs::state, "A job's own key-value state"),
        operation!(DELETE "/v1/jobs/{id}/state" "clear_job_state", Operate, jobs::clear_state, "Forget a job's own state"),
        operation!(GET "/v1/timeline" "get_timeline", Read, timeline::timeline, "When jobs fire next, counted by quarter hours"),
        operation!(GET "/v1/runs" "list_runs", Read, runs::list, "Runs, newest first"),
        operation!(GET "/v1/runs/{id}" "get_run", Read, runs::show, "One run"),
        operation!(GET "/v1/runs/{id}/logs" "get_run_logs", Read, logs::logs, "What a run wrote, also while it goes on; as an event stream, live"),
        operation!(POST "/v1/runs/{id}/cancel" "cancel_run", Operate, runs::cancel, "Make a run end"),
        operation!(GET "/v1/failures" "list_failures", Read, runs::failures, "Failures of one kind as one"),
        operation!(POST "/v1/exec" "exec", Operate, runs::exec, "Call a function once, now, without a job"),
    ]
}

fn plugins_and_grants() -> Vec<Operation> {
    vec![
        operation!(GET "/v1/plugins" "list_plugins", Read, plugins::list, "Plugins by name"),
        operation!(GET "/v1/plugins/{name}" "get_plugin", Read, plugins::show, "One plugin with its versions"),
        operation!(PUT "/v1/plugins/{name}" "add_plugin", Grant, plugins::add, "Register a component as the next version of a plugin")
            .takes(Body::Wasm)
            .body_bytes_max(COMPONENT_BYTES_MAX + 1),
        operation!(DELETE "/v1/plugins/{name}" "remove_plugin", Grant, plugins::remove, "Remove a plugin that no job uses")
            .refuses(USED),
        operation!(GET "/v1/plugins/{name}/functions" "list_functions", Read, plugins::functions, "What jobs can call, with the types of its parameters"),
        operation!(GET "/v1/plugins/{name}/grants" "get_grants", Read, grants::show, "What each version is granted"),
        operation!(PUT "/v1/plugins/{name}/grants" "put_grants", Grant, grants::put, "Grant, or take back"),
        operation!(GET "/v1/plugins/{name}/suggestion" "suggest_grants", Read, grants::suggestion, "The least that recorded runs needed"),
        operation!(GET "/v1/secrets" "list_secrets", Read, secrets::list, "Names of secrets"),
        operation!(PUT "/v1/secrets/{name}" "put_secret", Grant, secrets::put, "Store a secret; it never comes out"),
        operation!(DELETE "/v1/secrets/{name}" "remove_secret", Grant, secrets::remove, "Remove a secret"),
        operation!(GET "/v1/listeners" "list_listeners", Operate, listeners::list, "Stored listeners by name"),
        operation!(GET "/v1/listeners/{name}" "get_listener", Operate, listeners::show, "One listener, and how far it is"),
        operation!(PUT "/v1/listeners/{name}" "put_listener", Grant, listeners::put, "Add a listener, or change one"),
        operation!(DELETE "/v1/listeners/{name}" "remove_listener", Operate, listeners::remove, "Remove a listener"),
        operation!(POST "/v1/listeners/{name}/replay" "replay_listener", Operate, listeners::replay, "Tell it again of stored events"),
    ]
}

fn scheduler_and_daemon() -> Vec<Operation> {
    vec![
        operation!(GET "/v1/events" "list_events", Read, events::events, "Stored events, or as an event stream what happens"),
        operation!(POST "/v1/triggers/preview" "preview_trigger", Read, system::preview, "What a trigger means, and when it fires"),
        operation!(POST "/v1/simulate" "simulate", Read, simulate::simulate, "What would run, as a stream of lines"),
        operation!(GET "/v1/status" "get_status", Read, system::status, "What runs where"),
        operation!(GET "/v1/nodes" "list_nodes", Read, nodes::list, "The nodes that share the store"),
        operation!(DELETE "/v1/nodes/{lease}" "evict_node", Operate, nodes::evict, "Take over from a node that is known to be dead"),
        operation!(GET "/v1/doctor" "doctor", Read, doctor::doctor, "What is wrong, and what keeps plugins in, each thing tried"),
        operation!(POST "/v1/scheduler/pause" "pause_scheduler", Operate, system::pause, "Fire nothing until it is resumed"),
        operation!(POST "/v1/scheduler/resume" "resume_scheduler", Operate, system::resume, "Fire again"),
        operation!(POST "/v1/scheduler/shutdown" "shutdown", Operate, system::shutdown, "Let runs end, then end the daemon"),
        operation!(GET "/v1/export" "export", Operate, bundle::export, "Plugins and jobs as one document"),
        operation!(POST "/v1/import" "import", Grant, bundle::import, "Plugins and jobs from a document, checked one by one")
            .body_bytes_max(bundle::BUNDLE_BYTES_MAX),
        operation!(POST "/v1/import/apscheduler" "import_apscheduler", Operate, bundle::import_apscheduler, "Jobs from APScheduler's export")
            .body_bytes_max(bundle::BUNDLE_BYTES_MAX),
        operation!(POST "/v1/apply" "apply", Operate, bundle::apply, "Make jobs what is declared, or say what would change")
            .body_bytes_max(bundle::BUNDLE_BYTES_MAX),
        operation!(GET "/v1/backup" "backup", Grant, backup::backup, "Everything the daemon keeps, at one moment, as a tar archive"),
        operation!(GET "/v1/audit" "list_audit", Operate, audit_log::list, "Who did what, newest first"),
        operation!(GET "/v1/session" "get_session", Read, session::show, "Who the caller is here"),
        operation!(POST "/v1/session" LOGIN, Public, session::begin, "Sign a browser in"),
        operation!(DELETE "/v1/session" "end_session", Read, session::end, "Sign out"),
        operation!(POST "/v1/session/code" "create_code", Grant, session::code, "A code that signs one browser in"),
        operation!(GET "/v1/tokens" "list_tokens", Grant, session::list_tokens, "Tokens by name"),
        operation!(POST "/v1/tokens" "create_token", Grant, session::create_token, "A new token, told this once"),
        operation!(POST "/v1/tokens/{name}/rotate" "rotate_token", Grant, session::rotate_token, "The same token with a new text"),
        operation!(DELETE "/v1/tokens/{name}" "remove_token", Grant, session::remove_token, "Remove a token; its sessions end"),
        operation!(GET "/metrics" "get_metrics", Read, system::metrics, "Metrics for Prometheus"),
        operation!(GET "/healthz" "get_health", Access::None, system::healthz, "Whether the daemon lives"),
        operation!(GET "/readyz" "get_readiness", Access::None, system::readyz, "Whether it fires what is due"),
    ]
}
