if(SCALECOM_HAS_CUDA)
  scalecom_test(NAME unit_device LABELS unit
    SOURCES device/cuda_error_test.cpp
    LIBRARIES scalecom_device_cuda)
endif()
