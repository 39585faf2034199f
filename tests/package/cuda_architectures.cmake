# cmake -DSOURCE=... -DFOLDER=... -P: what is chosen for nvcc of several toolkits, which scripts stand for.
cmake_minimum_required(VERSION 3.25)
include("${SOURCE}/cmake/ScalecomCudaArchitectures.cmake")

# check(WHAT CODE LISTED ARCHITECTURES PROBLEM): of an nvcc that lists these and ends so. PROBLEM: a part.
function(check what code listed architectures problem)
  set(nvcc "${FOLDER}/nvcc of ${what}")
  list(TRANSFORM listed PREPEND "compute_")
  list(JOIN listed "\\n" lines)
  file(WRITE "${nvcc}" "#!/bin/sh\n[ \"$1\" = --list-gpu-arch ] || exit 9\nprintf '${lines}\\n'\nexit ${code}\n")
  file(CHMOD "${nvcc}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  scalecom_choose_cuda_architectures("${nvcc}" got got_problem)
  string(FIND "${got_problem}" "${problem}" place)
  if(NOT "${got}" STREQUAL "${architectures}" OR place LESS 0
     OR ("${problem}" STREQUAL "" AND NOT "${got_problem}" STREQUAL ""))
    message(SEND_ERROR "${what}: expected '${architectures}' and '${problem}', got '${got}' and "
                       "'${got_problem}'")
  endif()
endfunction()

check("CUDA 11" 0 "35;37;50;52;53;60;61;62;70;72;75;80;86;87" "70-real;75-real;80" "")
check("CUDA 12.4" 0 "50;52;60;61;70;72;75;80;86;87;89;90" "70-real;75-real;80-real;90" "")
check("CUDA 12.9" 0 "50;60;70;75;80;86;89;90;100;101;103;120"
      "70-real;75-real;80-real;90-real;100" "")
check("CUDA 13" 0 "75;80;86;87;88;89;90;100;110;103;120;121" "75-real;80-real;90-real;100" "")
check("an old CUDA" 1 "70;75;80" "" "nvcc of an old CUDA --list-gpu-arch ended with 1: install a newer")
check("another kind" 0 "120;121" "" "makes code for none of 70, 75, 80, 90, 100: set CMAKE_CUDA_ARCHITECTURES")
