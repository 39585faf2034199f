scalecom_test(NAME unit_autotune LABELS unit
  SOURCES autotune/autotuner_test.cpp autotune/optimizer_test.cpp
  LIBRARIES scalecom_autotune scalecom_test_support)
