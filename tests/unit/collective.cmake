scalecom_test(NAME unit_collective LABELS unit TIMEOUT 600 HAS_SLOW
  SOURCES collective/loopback_test.cpp collective/all_reduce_test.cpp collective/movement_test.cpp
          collective/reduce_scatter_test.cpp collective/all_to_all_test.cpp
          collective/selector_test.cpp collective/cost_model_test.cpp collective/shm_test.cpp
          collective/hierarchical_test.cpp collective/explanation_test.cpp collective/adasum_test.cpp
  LIBRARIES scalecom_collective scalecom_test_support)
