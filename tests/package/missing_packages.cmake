# cmake -DSOURCE=... -DFOLDER=... -P: what configuring says where packages are missing.
set(tree "${FOLDER}/missing packages")

# check(OPTIONS WANTED...): configuring with these fails, with these words.
function(check options)
  file(REMOVE_RECURSE "${tree}")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env PKG_CONFIG_PATH= ${hidden}
            "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${tree}" -DSCALECOM_WITH_MPI=OFF -DSCALECOM_WITH_CUDA=OFF ${options}
    RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE error)
  string(REGEX REPLACE "[ \n]+" " " error "${error}")
  foreach(wanted IN LISTS ARGN)
    string(FIND "${error}" "${wanted}" place)
    if(result EQUAL 0 OR place LESS 0)
      message(SEND_ERROR "expected to find '${wanted}' in: ${error}")
    endif()
  endforeach()
endfunction()

check("-DSCALECOM_WITH_MPICH=ON" "SCALECOM_WITH_MPICH=ON, but it is built beside another MPI, and there is none")
set(hidden "PKG_CONFIG_LIBDIR=${FOLDER}")
check("-DCMAKE_DISABLE_FIND_PACKAGE_spdlog=ON;-DCMAKE_DISABLE_FIND_PACKAGE_CLI11=ON"
      "spdlog, CLI11, Highway" "apt-get install libspdlog-dev libcli11-dev libhwy-dev")
