scalecom_test(NAME unit_tuning LABELS unit TIMEOUT 300
  SOURCES tuning/samples_test.cpp tuning/tuning_file_test.cpp tuning/tune_test.cpp
  LIBRARIES scalecom_tuning scalecom_test_support)
