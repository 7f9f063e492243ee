add_executable(synth_model
    ${CMAKE_CURRENT_LIST_DIR}/synth_blocks.c
    ${CMAKE_CURRENT_LIST_DIR}/synth_model.c)
target_link_libraries(synth_model PRIVATE engine)
