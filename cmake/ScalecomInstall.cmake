# One tree for C++ and Python: bin, lib, include below any prefix, relocatable. The wheel has the same
# tree inside its package folder.
include(CMakePackageConfigHelpers)
set(config_dir lib/cmake/scalecom)

# A component is a package of cmake/ScalecomPackage.cmake: what needs an MPI is apart from what does not.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME scalecom)
install(TARGETS scalecom EXPORT scalecomTargets RUNTIME_DEPENDENCY_SET scalecom_dependencies
        LIBRARY DESTINATION lib)
if(SKBUILD)
  # pip installs no Highway. OpenSSL is left to the system, which mends it and where Python has it from.
  install(RUNTIME_DEPENDENCY_SET scalecom_dependencies PRE_INCLUDE_REGEXES "^libhwy\\."
          PRE_EXCLUDE_REGEXES ".*" DESTINATION lib)
endif()
install(TARGETS scalecom_jax scalecom_tensorflow LIBRARY DESTINATION lib)
if(SCALECOM_HAS_MPI)
  install(TARGETS scalecom_mpi LIBRARY DESTINATION lib COMPONENT mpi)
endif()
if(SCALECOM_HAS_MPICH)
  install(TARGETS scalecom_mpich scalecom_mpi12 LIBRARY DESTINATION lib COMPONENT mpich)
endif()
install(DIRECTORY include/scalecom ${PROJECT_BINARY_DIR}/include/scalecom DESTINATION include
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
install(EXPORT scalecomTargets NAMESPACE scalecom:: DESTINATION ${config_dir})

configure_package_config_file(cmake/scalecomConfig.cmake.in
  ${PROJECT_BINARY_DIR}/scalecomConfig.cmake INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/scalecomConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/scalecomConfig.cmake
              ${PROJECT_BINARY_DIR}/scalecomConfigVersion.cmake DESTINATION ${config_dir})

configure_file(cmake/scalecom.pc.in ${PROJECT_BINARY_DIR}/scalecom.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/scalecom.pc DESTINATION lib/pkgconfig)

if(SCALECOM_BUILD_TOOLS)
  install(TARGETS scalecom-info scalecom-bench RUNTIME DESTINATION bin)
  if(SCALECOM_HAS_MPI)
    install(TARGETS scalecom_bench_mpi LIBRARY DESTINATION lib COMPONENT mpi)
  endif()
endif()
