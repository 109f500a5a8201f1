//! Where each of the 148 hostile cases is shown. The ids are those of the corpus: C processor, M memory
//! and handles, A canonical ABI, B binaries, N names and configuration, F files, W network, U texts and
//! the API.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

enum Shown {
    /// By a test, of whatever binary.
    By(&'static str),
    /// By what is no test in Rust; where.
    Elsewhere(&'static str),
    /// What it attacks is not built yet.
    Later(&'static str),
}

use Shown::{By, Elsewhere, Later};

/// How many ids each group has.
const GROUPS: [(char, usize); 8] =
    [('C', 16), ('M', 24), ('A', 21), ('B', 17), ('N', 16), ('F', 13), ('W', 20), ('U', 21)];

/// An id without an entry is that of a case in this binary. Every id that is not shown by a case here, and what is shown beside one.
const SHOWN: &[(&str, Shown)] = &[
    ("C14", By("retries_are_spread_and_only_for_the_outcomes_that_are_named")),
    ("C15", By("a_fire_time_at_max_instances_is_skipped_with_its_reason")),
    ("C16", By("a_worker_that_does_not_answer_is_killed_after_its_grace")),
    ("M6", By("a_component_that_breaks_the_compiler_is_refused_and_remembered")),
    ("M20", By("names_of_secrets_and_variables_lead_nowhere_else")),
    ("M22", By("a_full_state_refuses_and_keeps_what_it_has")),
    ("M23", By("a_component_that_breaks_the_compiler_is_refused_and_remembered")),
    ("M24", Later("there is no cap on the number of plugins; 256 are kept loaded")),
    ("A12", By("a_wrong_argument_names_path_type_and_signature")),
    ("A16", By("what_hides_mistakes_is_refused")),
    ("A17", By("what_hides_mistakes_is_refused")),
    ("A19", By("what_hides_mistakes_is_refused")),
    ("B1", By("noise_ends_without_a_panic")),
    ("B4", By("what_is_no_component_is_refused_with_what_to_do")),
    ("B5", By("every_flipped_bit_is_found")),
    ("B6", By("a_link_is_not_followed")),
    ("B6", By("only_what_was_written_is_read")),
    ("B7", By("code_under_another_digest_is_not_taken")),
    ("B8", By("a_component_that_breaks_the_compiler_is_refused_and_remembered")),
    ("B9", By("a_name_does_not_change_what_it_may_do")),
    ("B13", By("what_is_no_component_is_refused_with_what_to_do")),
    ("B14", Later("there is no OCI client: plugins come as files")),
    ("B15", By("a_name_does_not_change_what_it_may_do")),
    ("N1", By("what_is_no_func_is_refused_with_the_reason")),
    ("N2", By("an_id_is_plain_and_short")),
    ("N3", By("a_func_has_a_module_perhaps_a_version_and_an_export")),
    ("N5", By("an_id_is_plain_and_short")),
    ("N6", By("what_can_never_fire_has_no_next_time")),
    ("N7", By("no_text_makes_a_parser_panic")),
    ("N8", By("a_flood_waits_for_slots_and_nothing_is_lost")),
    ("N9", By("an_interval_of_nothing_is_refused")),
    ("N10", By("a_zone_is_a_name_in_the_database_and_nothing_else")),
    ("N11", By("a_date_fires_once_even_when_it_is_past")),
    ("N12", By("a_clock_that_leaps_ahead_is_one_misfire_question")),
    ("N13", By("mistakes_are_named")),
    ("N14", By("names_of_secrets_and_variables_lead_nowhere_else")),
    ("N15", By("names_of_secrets_and_variables_lead_nowhere_else")),
    ("N16", By("a_damaged_store_is_diagnosed_and_recovered")),
    ("F6", By("no_guest_of_a_worker_leaves_its_directories")),
    ("F11", By("a_link_in_the_place_of_a_granted_directory_is_refused")),
    ("F12", By("a_directory_is_read_only_unless_it_says_so")),
    ("W3", By("every_spelling_of_an_inner_address_is_special")),
    ("W7", By("one_inner_address_among_public_ones_refuses_all")),
    ("W19", Elsewhere("Cargo.toml: hyper is built without `http2`")),
    ("U1", By("a_table_shows_no_escape_sequences")),
    ("U3", By("every_form_of_a_secret_goes")),
    ("U4", By("a_worker_leaves_no_core_and_has_nothing_of_the_daemons_environment")),
    ("U7", By("another_user_is_not_served_whatever_the_modes")),
    ("U8", By("a_form_on_another_site_cannot_do_anything")),
    ("U9", By("only_what_was_meant_for_the_daemon_is_answered")),
    ("U10", By("only_what_was_meant_for_the_daemon_is_answered")),
    ("U11", By("only_what_was_meant_for_the_daemon_is_answered")),
    ("U12", By("what_is_public_shows_nothing_and_every_answer_has_its_headers")),
    ("U13", By("a_home_that_is_a_link_is_refused_and_so_is_an_open_address")),
    ("U14", By("a_token_says_what_its_holder_may_do")),
    ("U15", By("the_socket_is_the_users_alone")),
    ("U16", By("a_thousand_idle_connections_and_slow_heads_hold_up_nothing")),
    ("U17", By("an_id_is_plain_and_short")),
    ("U18", By("a_subscriber_that_does_not_read_is_told_what_it_lost")),
    ("U19", Later("there is no free-text query")),
    ("U20", By("what_a_file_smuggles_in_is_refused")),
];

fn sources(dir: &Path, to: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, to);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("ledger.rs") {
            to.push(path);
        }
    }
}

fn text(dirs: &[&str]) -> String {
    let mut files = Vec::new();
    dirs.iter().for_each(|dir| sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files));
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn each_of_the_148_cases_is_shown_somewhere() {
    let (here, all) = (text(&["tests/hostile"]), text(&["tests", "src"]));
    let ids: Vec<String> =
        GROUPS.iter().flat_map(|(group, most)| (1..=*most).map(move |n| format!("{group}{n}"))).collect();
    assert_eq!(ids.len(), 148);
    let known: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let mut wrong = Vec::new();
    for (id, shown) in SHOWN {
        let found = match shown {
            By(test) => all.contains(&format!("fn {test}(")),
            Elsewhere(what) | Later(what) => !what.is_empty(),
        };
        if !found || !known.contains(id) {
            wrong.push(format!("{id} points nowhere"));
        }
    }
    // An id without an entry is that of a case.
    for id in &ids {
        let listed = SHOWN.iter().any(|(listed, _)| listed == id);
        if !listed && !here.contains(&format!("(\"{id}\",")) {
            wrong.push(format!("{id} is shown nowhere"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let later = SHOWN.iter().filter(|(_, shown)| matches!(shown, Later(_))).count();
    println!("148 cases: {} are shown, {later} wait for what they attack", 148 - later);
}

#[test]
fn http2_is_not_built_in() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("http2"), "W19");
}
