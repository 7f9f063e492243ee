# The programs of the tests that are labelled tsan.
add_custom_target(tsan_tests)

# kvpool_add_test(NAME folder.what SOURCES a.c ... LIBS layer ...)
#
# One Check program. The first of LIBS is the layer under test, linked as a whole
# archive, so that a call up the arrows between folders does not link.
function(kvpool_add_test)
    cmake_parse_arguments(ARG "" "NAME" "SOURCES;LIBS;LABELS" ${ARGN})
    string(REPLACE "." "_" target test_${ARG_NAME})
    list(POP_FRONT ARG_LIBS layer)
    if(NOT layer STREQUAL base) # everybody links base, and nothing is below it
        set(layer $<LINK_LIBRARY:WHOLE_ARCHIVE,${layer}>)
    endif()
    add_executable(${target} ${ARG_SOURCES})
    target_link_libraries(${target} PRIVATE ${layer} ${ARG_LIBS} test_support
        PkgConfig::CHECK)
    add_test(NAME ${ARG_NAME} COMMAND ${target})
    set_tests_properties(${ARG_NAME} PROPERTIES LABELS "unit;${ARG_LABELS}" TIMEOUT 300)
    if(tsan IN_LIST ARG_LABELS)
        add_dependencies(tsan_tests ${target})
    endif()
endfunction()

# kvpool_embed(TARGET symbol FILE): the bytes of FILE as `const unsigned char
# symbol[]` and `const unsigned char symbol_end[]`, without a compiler having to
# parse megabytes of text.
function(kvpool_embed target symbol file)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.S)
    file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [[
    .section .rodata
    .balign 64
    .global @symbol@
    .global @symbol@_end
@symbol@:
    .incbin "@file@"
@symbol@_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
]])
    set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS ${file} LANGUAGE ASM)
    target_sources(${target} PRIVATE ${source})
endfunction()
