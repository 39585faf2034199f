if(TARGET scalecom_runtime)
scalecom_test(NAME unit_runtime LABELS unit TIMEOUT 900
  SOURCES runtime/arguments_test.cpp runtime/autotune_test.cpp runtime/compression_plan_test.cpp runtime/data_plane_test.cpp
          runtime/driver_seat_test.cpp runtime/fusion_test.cpp runtime/health_monitor_test.cpp
          runtime/launch_test.cpp runtime/process_set_test.cpp runtime/session_fault_test.cpp runtime/session_group_test.cpp
          runtime/session_health_test.cpp runtime/session_join_test.cpp runtime/session_parts_test.cpp
          runtime/session_policy_test.cpp runtime/session_priority_test.cpp
          runtime/session_sparse_test.cpp runtime/session_steady_test.cpp
          runtime/session_test.cpp runtime/session_threads_test.cpp
          runtime/session_timeline_test.cpp runtime/tensor_queue_test.cpp runtime/ticket_test.cpp runtime/timeline_test.cpp
          runtime/worker_pool_test.cpp
  LIBRARIES scalecom_runtime scalecom_test_support $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
scalecom_test(NAME unit_runtime_device LABELS unit TIMEOUT 600
  SOURCES runtime/choose_collectives_test.cpp runtime/device_context_test.cpp runtime/posting_thread_test.cpp
          runtime/session_device_ahead_test.cpp runtime/session_device_fault_test.cpp
          runtime/session_device_calls_test.cpp runtime/session_device_health_test.cpp
          runtime/session_device_join_test.cpp runtime/session_device_plan_test.cpp runtime/session_device_test.cpp
  LIBRARIES scalecom_runtime scalecom_test_support scalecom_fake_accelerator)
endif()
