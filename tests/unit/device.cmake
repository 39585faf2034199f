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
  SOURCES device/nccl_load_test.cpp device/nccl_test.cpp device/nccl_tuner_test.cpp
  LIBRARIES scalecom_device_nccl)
# Where the loader looks first, so that the system's NCCL, if there is one, is not met: an RPATH, which
# comes before LD_LIBRARY_PATH. The loader looks there again only if it is there when a program starts.
set(nccl_directory ${CMAKE_CURRENT_BINARY_DIR}/nccl)
file(MAKE_DIRECTORY ${nccl_directory}/system)
set_target_properties(unit_nccl PROPERTIES ENABLE_EXPORTS ON BUILD_RPATH ${nccl_directory}/system)
target_link_options(unit_nccl PRIVATE LINKER:--disable-new-dtags)
target_compile_definitions(unit_nccl PRIVATE SCALECOM_FAKE_NCCL="$<TARGET_FILE:fake_nccl>"
                                             SCALECOM_NCCL_DIRECTORY="${nccl_directory}")
add_dependencies(unit_nccl fake_nccl)
scalecom_test(NAME unit_fake_accelerator LABELS unit
  SOURCES device/fake_accelerator_test.cpp device/pinned_pool_test.cpp
  LIBRARIES scalecom_fake_accelerator)
scalecom_test(NAME unit_device_collectives LABELS unit TIMEOUT 300
  SOURCES device/staged_collectives_test.cpp device/nccl_collectives_test.cpp
  LIBRARIES scalecom_collective_device scalecom_test_support scalecom_fake_accelerator)
# The tuner is looked for in the program, as NCCL does.
set_target_properties(unit_device_collectives PROPERTIES ENABLE_EXPORTS ON)
