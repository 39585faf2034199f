scalecom_test(NAME unit_control LABELS unit
  SOURCES control/topology_test.cpp control/handshake_test.cpp control/channel_test.cpp
          control/socket_channel_test.cpp control/connect_test.cpp control/called_off_test.cpp
          control/meeting_test.cpp control/last_meeting_test.cpp control/reception_test.cpp control/rendezvous_test.cpp
  LIBRARIES scalecom_control scalecom_test_support)
