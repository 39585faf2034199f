if(SCALECOM_SANITIZE)
  add_compile_options(-fsanitize=${SCALECOM_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SCALECOM_SANITIZE})
endif()
