# The forward pass alone: what a model does a second, beside what memory allows.
add_executable(bench_engine ${CMAKE_CURRENT_LIST_DIR}/bench_engine.c
    ${CMAKE_CURRENT_LIST_DIR}/phases.c)
target_link_options(bench_engine PRIVATE -Wl,--wrap=team_each)
target_link_libraries(bench_engine PRIVATE engine)
