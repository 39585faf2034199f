add_library(scalecom_warnings INTERFACE)
# g++ 12 sees overlapping copies where std::string is concatenated (GCC bug 105329).
set(has_false_restrict
    $<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>)
target_compile_options(scalecom_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wcast-align>
  $<${has_false_restrict}:-Wno-restrict>
  $<$<BOOL:${SCALECOM_WARNINGS_AS_ERRORS}>:-Werror>)
