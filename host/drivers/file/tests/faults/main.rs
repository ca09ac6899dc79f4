//! What happens to a directory and to the processes that share it, and what they promise then.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod grounds;
mod member;
mod processes;
mod stage;

use std::process::ExitCode;

use althing_test_servers::{Test, run_always};

macro_rules! tests {
    ($($file:ident: $($test:ident),+ ;)+) => {
        const TESTS: &[Test] = &[$($((stringify!($test), || Box::pin($file::$test())),)+)+];
    };
}

tests! {
    processes:
        a_kill_at_any_moment_loses_nothing_acknowledged_and_ends_its_session_at_once,
        who_is_killed_is_missed_long_before_its_lease_runs_out,
        who_stands_still_is_over_after_its_lease_and_hears_it,
        who_stands_still_in_the_middle_of_anything_keeps_nobody_waiting,
        only_one_of_many_processes_wins,
        no_update_of_many_processes_is_lost,
        a_loss_of_power_loses_nothing_acknowledged_and_ends_all_sessions,
        a_process_of_another_boot_finds_the_records_and_no_session,
        watches_poll_where_the_kernel_lets_them_hear_nothing,
        a_clock_of_its_own_is_refused,
        a_session_lives_as_long_as_it_is_renewed_by_whomever,
        who_drops_its_driver_is_gone_at_once;
    grounds:
        goes_on_behind_what_a_killed_writer_left_half_written,
        refuses_a_damaged_log_and_cuts_nothing_off,
        another_boot_cuts_off_only_what_was_promised_to_nobody,
        a_running_process_stops_at_damage_too,
        begins_a_long_log_anew_and_keeps_everything_and_every_watch,
        one_of_many_begins_a_long_log_anew_and_no_session_is_lost,
        what_is_too_long_to_be_read_in_a_call_is_opened_all_the_same,
        refuses_a_key_that_is_too_long_wherever_it_stands,
        a_loss_of_power_right_after_a_log_was_begun_anew_loses_nothing,
        a_full_disk_refuses_commits_and_ends_no_session,
        a_disk_that_answers_nobody_is_told_in_time_and_with_its_effect,
        tells_that_its_directory_was_removed_and_goes_on_in_the_next,
        tokens_rise_over_an_older_copy_of_the_directory,
        refuses_a_directory_that_is_not_ours_and_changes_nothing,
        refuses_what_is_no_directory_or_has_no_parent,
        refuses_a_directory_that_cannot_be_written,
        what_it_makes_is_for_its_user_alone,
        sweeps_away_what_killed_processes_left,
        promises_what_its_file_system_keeps,
        namespaces_do_not_see_each_other;
}

fn main() -> ExitCode {
    member::play().unwrap_or_else(|| run_always(TESTS))
}
