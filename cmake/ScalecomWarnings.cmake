add_library(scalecom_warnings INTERFACE)
# g++ 12 sees overlapping copies where std::string is concatenated (GCC bug 105329).
set(has_false_restrict
    $<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>)
target_compile_options(scalecom_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wcast-align>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<NOT:$<COMPILE_LANGUAGE:CUDA>>,${has_false_restrict}>:-Wno-restrict>
  $<$<AND:$<NOT:$<COMPILE_LANGUAGE:CUDA>>,$<BOOL:${SCALECOM_WARNINGS_AS_ERRORS}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${SCALECOM_WARNINGS_AS_ERRORS}>>:-Werror=all-warnings>)
