scalecom_test(NAME unit_transport LABELS unit
  SOURCES transport/address_test.cpp transport/shared_segment_test.cpp transport/socket_transport_test.cpp
  LIBRARIES scalecom_transport scalecom_collective scalecom_test_support)
