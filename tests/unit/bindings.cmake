# The handlers over a C interface that only notes what it is asked.
if(TARGET scalecom_jax)
scalecom_test(NAME unit_bindings LABELS unit
  SOURCES bindings/jax_handlers_test.cpp ${PROJECT_SOURCE_DIR}/bindings/jax_ffi/call.cpp
          ${PROJECT_SOURCE_DIR}/bindings/jax_ffi/handlers.cpp
  LIBRARIES)
target_include_directories(unit_bindings PRIVATE ${PROJECT_SOURCE_DIR}/include)
endif()

if(TARGET scalecom)
scalecom_test(NAME unit_c_interface LABELS unit
  SOURCES bindings/c_interface_test.cpp
  LIBRARIES scalecom)
endif()
