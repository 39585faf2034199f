add_library(scalecom_warnings INTERFACE)
target_compile_options(scalecom_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-align
  $<$<BOOL:${SCALECOM_WARNINGS_AS_ERRORS}>:-Werror>)
