add_executable(bench_pool ${CMAKE_CURRENT_LIST_DIR}/bench_pool.c)
target_link_libraries(bench_pool PRIVATE pool)

add_executable(bench_policies ${CMAKE_CURRENT_LIST_DIR}/bench_policies.c)
target_link_libraries(bench_policies PRIVATE pool m)

add_executable(bench_zero ${CMAKE_CURRENT_LIST_DIR}/bench_zero.c)
target_link_libraries(bench_zero PRIVATE base)
