# The forward pass alone: what a model does a second, beside what memory allows.
add_executable(bench_engine ${CMAKE_CURRENT_LIST_DIR}/bench_engine.c)
target_link_libraries(bench_engine PRIVATE engine)
