# The table of options and its readers, apart so that a test can link them alone.
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)

add_library(options STATIC
    ${CMAKE_CURRENT_LIST_DIR}/options.c
    ${CMAKE_CURRENT_LIST_DIR}/options_file.c
    ${CMAKE_CURRENT_LIST_DIR}/options_list.c
    ${CMAKE_CURRENT_LIST_DIR}/options_print.c
    ${CMAKE_CURRENT_LIST_DIR}/options_reader.c
    ${CMAKE_CURRENT_LIST_DIR}/options_sinks.c
    ${CMAKE_CURRENT_LIST_DIR}/options_table.c
    ${CMAKE_CURRENT_LIST_DIR}/options_tenants.c)
target_link_libraries(options PUBLIC base sinks PRIVATE PkgConfig::CRYPTO PkgConfig::YAML)
