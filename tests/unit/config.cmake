scalecom_test(NAME unit_config LABELS unit
  SOURCES config/settings_test.cpp
  LIBRARIES scalecom_config)
# Where the generated page of the settings lies, for the test that compares it.
target_compile_definitions(unit_config PRIVATE
  SCALECOM_CONFIGURATION_PAGE="${PROJECT_SOURCE_DIR}/docs/configuration.md")
