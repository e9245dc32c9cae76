//! Everything that protocol §4 says can go wrong, each played by an attacker against a whole federation over real
//! sockets: a lying server (the honest one behind a front that has its certificate) and lying members (with keys of
//! their own). Nobody opens or sends what it must not, and the victims' audit logs name what failed.
//!
//! Which test plays which attack; those that stand elsewhere play it against one crate or the server alone. A last test
//! here holds this table to the tests that there are.
//!
//! | attack | tests |
//! |---|---|
//! | altered body | `a_changed_sum_that_the_roster_vouches_for_fails_the_check_values`, `a_changed_body_of_a_contributor_is_noticed_by_whoever_spot_checks_it`, `a_body_that_is_not_the_signed_one_is_refused` |
//! | wrong sum | `a_sum_with_one_word_changed_is_opened_by_nobody` |
//! | dropped contribution | `a_sum_that_drops_a_contribution_which_the_roster_names_fails_the_check_values`, `a_roster_that_leaves_a_contributor_out_is_below_the_minimum` |
//! | added contribution | `a_sum_that_adds_a_contribution_which_nobody_sent_fails_the_check_values`, `a_roster_that_counts_a_contributor_twice_is_refused`, `a_roster_with_a_contributor_from_outside_the_cohort_is_refused` |
//! | swapped members | `a_sum_that_counts_one_contribution_for_another_fails_the_check_values`, `a_body_handed_out_as_another_members_is_noticed`, `shares_of_keys_that_swap_their_senders_are_not_added_up`, `a_roster_that_swaps_two_contributors_is_refused`, `a_plan_with_another_cohort_than_the_manifests_is_refused_and_nothing_is_sent` |
//! | replayed round | `contributions_of_the_last_round_make_no_roster_of_this_one`, `the_last_rounds_roster_is_not_echoed_again`, `shares_of_the_last_round_are_not_added_up_in_this_one`, `the_last_rounds_sum_is_not_opened_in_this_one`, `a_plan_that_is_sent_again_is_not_followed_again`, `a_body_replayed_from_the_last_context_is_refused` |
//! | two rosters | `of_two_rosters_the_one_with_enough_echoes_is_opened_and_the_other_never`, `a_member_that_echoed_one_roster_echoes_no_other_after_a_restart` |
//! | three rosters: A, B, A ∪ B | `three_rosters_told_to_three_members_open_none_of_them`, `two_disjoint_rosters_and_their_union_open_none_of_them`, `releases_for_three_rosters_leak_a_sum_of_keys_although_none_has_t` |
//! | a roster below the minimum, forged or hidden | `a_roster_that_leaves_a_contributor_out_is_below_the_minimum`, `a_roster_below_the_minimum_is_never_made`, `a_roster_that_a_member_signed_is_not_heard`, `a_roster_that_is_hidden_opens_nothing`, `a_gap_in_the_events_ends_the_run_with_an_error` |
//! | echoes or releases swallowed | `with_too_few_echoes_nobody_releases_and_the_sum_stays_closed`, `with_too_few_releases_the_sum_stays_closed`, `a_share_of_a_key_that_is_kept_back_voids_the_attempt`, `a_share_of_the_sum_of_keys_that_is_kept_back_is_not_needed` |
//! | garbage share | `a_changed_share_of_a_key_is_not_added_up`, `a_changed_share_of_the_sum_of_keys_is_not_used`, `a_released_share_that_does_not_open_is_noted_and_not_needed`, `a_garbage_share_among_surplus_ones_is_found_out_and_named`, `a_garbage_share_without_surplus_voids_the_attempt`, `shares_of_another_key_than_the_bodys_open_nothing` |
//! | a share for another member | `a_share_of_a_key_that_was_sealed_to_another_member_is_not_added_up`, `a_share_sealed_to_another_member_opens_nothing_and_its_sender_is_named`, `a_share_sealed_to_another_member_does_not_open` |
//! | wrong or lying check value | `a_check_value_that_covers_a_changed_sum_is_caught_by_the_spot_check_and_its_signer_named` |
//! | values beyond the bound | `a_value_beyond_what_all_could_add_up_to_voids_the_attempt` |
//! | truncated messages | `a_sum_cut_short_is_opened_by_nobody`, `a_truncated_plan_is_refused_and_nothing_is_sent`, `a_truncated_stream_goes_on_where_it_stopped`, `a_truncated_body_is_refused_by_the_server_and_by_a_checker` |
//! | oversized messages | `a_sum_made_longer_is_opened_by_nobody`, `an_event_larger_than_a_message_ends_the_run_with_an_error`, `what_is_larger_than_it_may_be_is_refused` |
//! | a second echo or release | `a_member_that_echoed_one_roster_echoes_no_other_after_a_restart`, `a_member_that_released_for_one_roster_releases_for_no_other_after_a_restart`, `a_second_echo_or_release_must_be_the_same` |
//! | a second body under one context | `a_member_whose_contribution_was_lost_sends_the_same_bytes_after_a_restart`, `a_second_header_and_one_of_another_context_are_refused` |
//! | a second plan for one attempt | `a_second_plan_for_a_round_and_attempt_is_refused_and_nothing_more_is_sent` |
//! | a one-time key used twice | `a_one_time_key_that_was_used_before_is_refused_before_anything_is_sent`, `a_key_is_bound_to_one_context_even_after_a_restart`, `a_second_plan_never_reuses_a_one_time_key` |
//! | a one-time key signed by another, or that is none | `a_one_time_key_that_its_member_did_not_sign_is_refused_and_nothing_is_sent`, `a_one_time_key_of_another_or_that_is_none_is_not_taken` |
//! | a member outside the manifest | `a_plan_that_seats_somebody_from_outside_the_manifest_is_refused_and_nothing_is_sent`, `a_roster_with_a_contributor_from_outside_the_cohort_is_refused`, `who_is_not_in_the_manifest_is_a_stranger` |
//! | a plan beyond job or policy | `a_plan_wider_than_its_job_is_refused_and_nothing_is_sent`, `a_plan_beyond_the_policy_is_refused_and_nothing_is_sent`, `a_policy_that_the_server_signed_itself_is_refused` |
//! | another committee than the drawn one, or a smaller one | `a_plan_with_another_committee_than_the_drawn_one_is_refused_and_nothing_is_sent`, `a_plan_that_seats_too_few_of_the_drawn_members_is_refused`, `a_plan_with_another_size_of_committee_than_job_and_policy_give_is_refused_and_nothing_is_sent`, `a_plan_with_another_committee_than_the_drawn_one_is_refused` |
//! | echoes, releases or shares of members outside the committee | `echoes_of_members_outside_the_committee_are_not_counted`, `releases_of_members_outside_the_committee_are_not_counted`, `a_contribution_with_shares_for_a_member_outside_the_committee_is_refused`, `members_outside_the_committee_neither_echo_nor_release_shares` |
//! | a missed round that a committee could have been drawn from, left out | `a_missed_round_that_the_server_leaves_out_is_not_skipped` |
//! | a disk stolen after the round | `a_disk_taken_after_the_round_opens_nothing_and_one_taken_during_it_does`, `a_member_that_was_away_when_its_job_ended_erases_its_keys_when_it_comes_back`, `a_member_that_was_stopped_at_the_end_of_a_round_erases_its_key_when_it_comes_back` |

use std::{collections::BTreeSet, fs, path::Path};

mod committees;
mod handed_out;
mod lying_member;
mod plans;
mod rosters;
mod stolen_disk;
mod victims;

/// The names of the tests in the Rust files of a folder and those below it.
fn tests_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let mut lines = source.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    let named = lines.find_map(|line| line.split_once("fn ")?.1.split('(').next());
                    found.extend(named.map(ToOwned::to_owned));
                }
            }
        }
    }
}

#[test]
fn the_table_names_tests_that_exist_and_every_test_of_this_folder() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let named: BTreeSet<&str> = include_str!("main.rs")
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .collect();
    let mut all = BTreeSet::new();
    for folder in ["crates", "tests"] {
        tests_in(&root.join(folder), &mut all);
    }
    for name in &named {
        assert!(all.contains(*name), "{name} is in the table and no test");
    }
    let mut here = BTreeSet::new();
    tests_in(&root.join("tests/tests/attacks"), &mut here);
    here.remove("the_table_names_tests_that_exist_and_every_test_of_this_folder");
    assert!(here.len() > 40, "{} tests found", here.len());
    for name in &here {
        assert!(named.contains(name.as_str()), "{name} is not in the table");
    }
}
