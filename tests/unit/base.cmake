scalecom_test(NAME unit_base LABELS unit
  SOURCES base/base_test.cpp
  LIBRARIES scalecom_base)
