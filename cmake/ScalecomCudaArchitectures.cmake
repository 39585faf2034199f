# What nvcc makes code for, from this table: code of one compute capability runs on its later minor
# versions, and PTX of the highest on what comes later. nvcc 13 has dropped 7.0; 10.0 begins with 12.8.
set(scalecom_cuda_capabilities 70 75 80 90 100)

# scalecom_choose_cuda_architectures(NVCC ARCHITECTURES PROBLEM): those of the table that this nvcc
# knows, as CMAKE_CUDA_ARCHITECTURES has them; else none, and why.
function(scalecom_choose_cuda_architectures nvcc architectures problem)
  set(${architectures} "" PARENT_SCOPE)
  set(${problem} "" PARENT_SCOPE)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch TIMEOUT 60
                  RESULT_VARIABLE code OUTPUT_VARIABLE listing ERROR_QUIET)
  if(NOT code EQUAL 0)
    set(${problem} "${nvcc} --list-gpu-arch ended with ${code}: install a newer CUDA toolkit, or set \
CMAKE_CUDA_ARCHITECTURES" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCHALL "compute_[0-9]+[a-z]*" known "${listing}")
  set(chosen "")
  foreach(capability IN LISTS scalecom_cuda_capabilities)
    if("compute_${capability}" IN_LIST known)
      list(APPEND chosen "${capability}-real")
    endif()
  endforeach()
  if(NOT chosen)
    list(JOIN scalecom_cuda_capabilities ", " wanted)
    set(${problem} "${nvcc} makes code for none of ${wanted}: set CMAKE_CUDA_ARCHITECTURES"
        PARENT_SCOPE)
    return()
  endif()
  list(POP_BACK chosen highest)
  string(REPLACE "-real" "" highest "${highest}")
  set(${architectures} ${chosen} ${highest} PARENT_SCOPE)
endfunction()
