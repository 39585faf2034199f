# scalecom_layer(NAME base SOURCES a.cpp b.cpp DEPENDS scalecom_x Lib::y)
# A static, position-independent library for one folder; libscalecom.so is their sum.
function(scalecom_layer)
  cmake_parse_arguments(arg "" "NAME" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  set(target scalecom_${arg_NAME})
  add_library(${target} STATIC ${arg_SOURCES})
  target_include_directories(${target} PUBLIC
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}
    ${PROJECT_BINARY_DIR}/include)
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS}
                        PRIVATE ${arg_PRIVATE_DEPENDS} $<BUILD_INTERFACE:scalecom_warnings>)
endfunction()

# scalecom_test(NAME unit_fusion SOURCES x_test.cpp LIBRARIES scalecom_runtime LABELS unit)
# A Catch2 executable and a ctest of its name. TIMEOUT in seconds (120). Test cases tagged [slow] are
# left out; HAS_SLOW adds the ctest NAME_slow (label slow, SLOW_TIMEOUT 1200 s) that runs those alone.
# ONE_THREAD: it starts no thread, so ThreadSanitizer would find nothing in it: for that it is no test.
function(scalecom_test)
  cmake_parse_arguments(arg "HAS_SLOW;ONE_THREAD" "NAME;TIMEOUT;SLOW_TIMEOUT" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(NOT arg_SLOW_TIMEOUT)
    set(arg_SLOW_TIMEOUT 1200)
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_include_directories(${arg_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${arg_NAME} PRIVATE ${arg_LIBRARIES} scalecom_test_main scalecom_warnings)
  if(arg_ONE_THREAD AND SCALECOM_SANITIZE MATCHES "thread")
    set_target_properties(${arg_NAME} PROPERTIES EXCLUDE_FROM_ALL TRUE)
    return()
  elseif(arg_ONE_THREAD AND NOT SCALECOM_SANITIZE)
    scalecom_starts_no_thread(${arg_NAME})
  endif()
  add_test(NAME ${arg_NAME} COMMAND ${arg_NAME} "~[slow]")
  # Long ones start first, so that no core is idle at the end.
  set_tests_properties(${arg_NAME} PROPERTIES TIMEOUT ${arg_TIMEOUT} COST ${arg_TIMEOUT}
                                              LABELS "${arg_LABELS}")
  if(arg_HAS_SLOW)
    add_test(NAME ${arg_NAME}_slow COMMAND ${arg_NAME} "[slow]")
    set_tests_properties(${arg_NAME}_slow PROPERTIES TIMEOUT ${arg_SLOW_TIMEOUT} LABELS slow)
  endif()
endfunction()

# Fails the build of a program that could start a thread.
function(scalecom_starts_no_thread target)
  add_custom_command(TARGET ${target} POST_BUILD VERBATIM
    COMMAND sh -c "! ${CMAKE_NM} -u $<TARGET_FILE:${target}> | grep -e pthread_create -e _M_start_thread \
                   || { echo ${target} starts threads: take ONE_THREAD from it >&2; false; }")
endfunction()
