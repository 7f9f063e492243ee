# The table of options and its parser, apart so that a test can link it alone.

add_library(options STATIC ${CMAKE_CURRENT_LIST_DIR}/options.c)
target_link_libraries(options PUBLIC base PRIVATE PkgConfig::CRYPTO)
