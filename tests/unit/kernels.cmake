scalecom_test(NAME unit_kernels LABELS unit ONE_THREAD
  SOURCES kernels/half_test.cpp kernels/reduce_test.cpp kernels/scale_test.cpp
          kernels/sweep_test.cpp kernels/selected_test.cpp kernels/codec_test.cpp
          kernels/cuda_arithmetic_test.cpp
          kernels/residual_store_test.cpp kernels/adasum_test.cpp
  LIBRARIES scalecom_kernels scalecom_compress PkgConfig::HWY)
# The references must round as the kernels do.
target_compile_options(unit_kernels PRIVATE -ffp-contract=off)
