if(SCALECOM_HAS_CUDA)
  scalecom_test(NAME unit_device LABELS unit
    SOURCES device/cuda_error_test.cpp
    LIBRARIES scalecom_device_cuda)
endif()
add_library(fake_nccl SHARED device/fake_nccl.cpp)
target_link_libraries(fake_nccl PRIVATE scalecom_warnings)
set_target_properties(fake_nccl PROPERTIES NO_SONAME ON CXX_VISIBILITY_PRESET default)
target_link_options(fake_nccl PRIVATE LINKER:-soname,libnccl.so.2)
scalecom_test(NAME unit_nccl LABELS unit
  SOURCES device/nccl_test.cpp device/nccl_tuner_test.cpp
  LIBRARIES scalecom_device_nccl)
set_target_properties(unit_nccl PROPERTIES ENABLE_EXPORTS ON)
target_compile_definitions(unit_nccl PRIVATE SCALECOM_FAKE_NCCL="$<TARGET_FILE:fake_nccl>")
add_dependencies(unit_nccl fake_nccl)
scalecom_test(NAME unit_fake_accelerator LABELS unit
  SOURCES device/fake_accelerator_test.cpp device/pinned_pool_test.cpp
  LIBRARIES scalecom_fake_accelerator)
scalecom_test(NAME unit_device_collectives LABELS unit TIMEOUT 300
  SOURCES device/staged_collectives_test.cpp device/nccl_collectives_test.cpp
  LIBRARIES scalecom_collective_device scalecom_test_support scalecom_fake_accelerator)
