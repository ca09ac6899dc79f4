//! The table of cases.

mod list;
mod names;
mod race;
mod session;
mod txn;
mod watch;

use std::future::Future;
use std::pin::Pin;

use crate::Stage;

/// One claim about every driver, and how it is checked.
pub struct Case {
    /// What is claimed, such as `txn::refuses_a_guard_on_an_old_incarnation`.
    pub name: &'static str,
    /// How many keys one transaction must be able to hold for the claim to make sense.
    pub keys: u32,
    /// Checks it; panics if it does not hold.
    pub run: fn(Stage) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Returns all cases.
pub fn cases() -> &'static [Case] {
    CASES
}

macro_rules! table {
    ($($file:ident: $($case:ident($keys:literal)),* ;)*) => {
        const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($file), "::", stringify!($case)),
            keys: $keys,
            run: |stage| Box::pin($file::$case(stage)),
        }),*),*];
    };
}

// A case and the keys its transactions hold.
table! {
    txn:
        writes_all_of_a_transaction_at_one_revision(3),
        writes_nothing_when_one_guard_fails(3),
        names_the_first_guard_that_failed(3),
        refuses_absent_where_a_record_is(1),
        refuses_unchanged_after_a_write_or_a_deletion(1),
        refuses_a_guard_on_an_old_incarnation(1),
        refuses_a_guard_on_a_stamp_of_zeros(1),
        checks_guards_without_writes(1),
        deletes_what_is_not_there(1),
        refuses_a_transaction_that_is_empty_or_contradicts_itself(1),
        holds_as_many_keys_as_it_says(1),
        counts_a_key_both_guarded_and_written_once(1),
        tokens_rise_over_deletions(1),
        reads_on_another_connection_what_was_acknowledged(1),
        keeps_or_tells_over_a_restart(1);
    session:
        shows_a_record_of_each_live_session(1),
        refuses_a_put_under_an_ended_session(2),
        looks_at_guards_before_sessions(1),
        begins_an_incarnation_when_another_session_writes(1),
        removes_what_an_expired_session_owned(1),
        removes_what_a_closed_session_owned(1),
        leaves_a_record_with_its_new_owner(1),
        keeps_a_record_that_was_disowned(1),
        closes_a_gone_session_again(1),
        refuses_to_renew_a_gone_session(1),
        a_renewed_session_outlives_its_lease(1),
        renews_on_any_connection(1),
        never_reuses_an_id(1),
        guards_on_a_live_session(2),
        refuses_to_write_reserved_keys(1),
        grants_leases_within_its_bounds(1);
    watch:
        begins_with_a_snapshot(1),
        goes_on_from_a_revision(1),
        wakes_who_waits(1),
        tells_each_change_once_and_in_order(2),
        tells_the_same_to_every_connection(2),
        tells_a_deletion_and_the_next_incarnation_apart(1),
        tells_an_expiry_with_its_cause_and_without_traffic(1),
        tells_a_close_with_its_cause_at_one_revision(1),
        tells_only_what_lies_below_the_prefix(1),
        resyncs_who_comes_after_too_long(1),
        resyncs_who_lags_too_far(1),
        resyncs_who_comes_from_a_lost_future(1),
        loses_nothing_when_a_wait_is_dropped(1),
        misses_nothing_between_a_listing_and_a_watch(1);
    list:
        lists_in_the_order_of_bytes(1),
        lists_long_names_that_differ_in_their_last_byte(1),
        goes_on_after_any_key(1),
        bounds_its_pages(1),
        bounds_the_bytes_of_a_page(1),
        takes_prefixes_as_bytes(1),
        lists_two_thousand_keys(1);
    names:
        keeps_any_byte_string_as_a_name(1),
        refuses_a_name_that_is_too_long(1),
        keeps_values_up_to_the_limit(1),
        refuses_a_value_over_the_limit(1);
    race:
        one_of_many_writers_wins(1),
        loses_no_update(1),
        a_dropped_commit_is_whole_or_not_at_all(4),
        leaves_no_orphan_when_a_close_races_a_put(1);
}
