//! What holds between processes, under each start method.
//!
//! Every promise runs in a process (group) of its own, by fork and by spawn. The driver watches. A
//! promise that hangs is shown, with what each of its processes waits for, and ended; a promise
//! that leaves a process behind has failed.

mod driver;
mod ends;
mod memory;
mod objects;
mod shared;
mod starts;

use driver::Promise;

macro_rules! promises {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), run: $module::$name }),*]
    };
}

const PROMISES: &[Promise] = promises![
    starts::a_result_comes_back,
    starts::arguments_and_results_may_be_large,
    starts::a_child_may_have_children,
    starts::a_process_with_threads_respawns_its_children,
    starts::a_process_with_threads_is_not_forked,
    starts::objects_in_the_arguments_live_until_the_child_has_them,
    starts::a_forged_order_is_refused,
    starts::the_environment_of_a_child_does_not_tell_of_its_order,
    starts::a_child_has_its_name_in_the_process_table,
    starts::a_child_has_the_surroundings_that_are_chosen,
    starts::surroundings_that_can_not_be_are_told,
    starts::a_child_without_a_name_is_named_after_its_spawn,
    starts::statics_are_the_parents_or_fresh_as_was_chosen,
    starts::a_child_that_never_comes_to_init_is_told,
    ends::a_killed_child_is_told_by_its_signal,
    ends::a_panic_comes_back_with_its_text,
    ends::a_child_that_leaves_is_told_by_its_status,
    ends::a_join_that_times_out_gives_the_handle_back,
    ends::a_child_is_not_joined_before_its_end,
    ends::the_state_of_a_child_is_seen,
    ends::how_a_child_ended_is_told_with_its_name_and_what_to_do,
    ends::a_tree_ends_whole,
    ends::a_child_may_be_bound_without_being_a_daemon,
    ends::a_daemon_of_a_thread_dies_with_its_killed_process,
    ends::a_daemon_dies_with_its_killed_parent,
    ends::a_daemon_outlives_the_thread_that_started_it,
    ends::a_child_that_is_no_daemon_outlives_its_parent,
    ends::a_detached_child_leaves_no_zombie,
    ends::a_detached_child_leaves_no_zombie_while_another_is_joined,
    ends::a_joined_child_leaves_nothing_in_the_arena,
    ends::the_descriptor_of_a_handle_is_readable_at_the_end,
    memory::what_there_is_no_memory_for_stays_in_the_queue,
    memory::what_there_is_no_memory_to_encode_is_not_put,
    memory::arguments_without_memory_are_told,
    memory::a_result_without_memory_is_told_by_join,
    objects::a_queue_goes_through_a_queue,
    objects::many_producers_and_consumers_lose_nothing,
    objects::what_a_killed_producer_put_is_delivered,
    objects::a_bounded_queue_holds_its_producer_back,
    objects::a_dead_owner_hands_the_lock_on,
    objects::a_lock_is_free_as_soon_as_its_error_goes_up,
    objects::a_dead_owner_is_told_by_number_and_name,
    objects::a_dead_owner_is_named_when_another_process_has_buried_it,
    objects::a_lock_lets_one_in_at_a_time,
    objects::permits_of_the_dead_come_back_where_asked_for,
    objects::an_event_wakes_all_who_wait,
    shared::a_value_counts_without_losing,
    shared::a_dead_owner_of_a_value_is_told_once,
    shared::a_condition_hands_turns_round,
    shared::a_killed_waiter_of_a_condition_takes_no_notification_along,
    shared::a_lock_whose_owner_dies_tells_who_waits_at_its_condition,
    shared::a_barrier_lets_all_through_or_none,
    shared::a_barrier_breaks_when_somebody_who_waits_dies,
    shared::an_action_that_panics_breaks_the_barrier,
    objects::a_stranger_takes_part_by_handles,
];

fn main() -> std::process::ExitCode {
    if starts::go_astray() {
        return std::process::ExitCode::SUCCESS;
    }
    procession::init();
    if let Some(status) = objects::stranger() {
        return status;
    }
    driver::main(PROMISES)
}
