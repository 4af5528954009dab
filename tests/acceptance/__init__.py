"""One test per row of the requirements that is built, named for its row, against one running suite.

R43 Tasks (`test_r43_tasks.py`)
  R43.1  test_R43_1_a_task_is_stored_with_all_its_metadata
         test_R43_1_tasks_by_agent_and_status_and_by_status_and_time_are_found_by_an_index
  R43.2  test_R43_2_a_submitted_task_is_durable_when_it_is_answered_and_the_answer_comes_at_once (gRPC)
  R43.3  test_R43_3_a_task_makes_only_legal_moves_and_a_terminal_state_never_changes
  R43.5  test_R43_5_results_also_large_ones_are_read_again_after_restarts
  R43.6  test_R43_6_a_task_goes_from_submit_over_worker_agent_and_tools_to_its_result
  R43.7  test_R43_7_status_updates_reach_a_watcher_in_real_time_and_in_order
         test_R43_7_a_watch_is_taken_up_again_after_any_revision
  R43.8  test_R43_8_every_attempts_error_is_kept_and_retries_back_off
         test_R43_8_well_formed_tasks_succeed_under_faults
  R43.9  test_R43_9_the_tasks_of_an_agent_are_listed_paged_and_filtered
R44 Registry (`test_r44_registry.py`)
  R44.1  test_R44_1_an_agent_is_registered_with_full_metadata
  R44.2  test_R44_2_agents_are_found_by_capability_and_by_tool
  R44.3  test_R44_3_only_a_super_admin_changes_the_registry_and_each_change_is_audited
  R44.4  test_R44_4_versions_are_immutable_and_keep_their_history
  R44.5  test_R44_5_agents_are_ranked_for_a_task_with_reasons
R45 Tools (`test_r45_tools.py`)
  R45.1  test_R45_1_every_violation_of_a_tools_schema_is_named
  R45.2  test_R45_2_nothing_is_allowed_by_default_and_an_allow_holds_for_its_agent_tool_and_arguments
  R45.3  test_R45_3_a_hostile_program_is_held_by_the_sandbox
  R45.4  test_R45_4_a_tool_reaches_no_database_and_no_network
  R45.5  test_R45_5_time_and_resource_limits_are_enforced
  R45.6  test_R45_6_every_tool_call_is_logged_whatever_became_of_it
R46 Audit (`test_r46_audit.py`)
  R46.1-4  test_R46_1_to_4_the_trail_of_a_task_holds_every_input_call_output_and_error_in_order
  R46.5  test_R46_5_a_trail_is_verified_without_trusting_the_log
         test_R46_5_tampering_with_the_stored_log_is_detected
         test_R46_5_the_stored_log_refuses_changes
  R46.6  test_R46_6_the_trail_of_a_task_is_found_by_an_index (by task)
Across (`test_rx_privacy.py`)
  RX.1   test_RX_1_who_acted_is_logged_under_a_name_that_tells_nothing
         test_RX_1_contents_are_shown_to_those_with_the_right_alone_and_each_look_is_logged
         test_RX_1_a_tenant_sees_nothing_of_another
"""
