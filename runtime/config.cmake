configure_file(${CMAKE_CURRENT_LIST_DIR}/build_facts.hpp.in ${PROJECT_BINARY_DIR}/include/scalecom_build_facts.hpp @ONLY)

scalecom_layer(NAME config
  SOURCES config_env.cpp misspelt_settings.cpp settings.cpp
  DEPENDS scalecom_base scalecom_collective
  PRIVATE_DEPENDS $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
