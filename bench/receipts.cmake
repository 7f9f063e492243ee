# The ledger alone: what numbering costs the owner, and what a reader costs.
if(KVPOOL_RECEIPTS)
    add_executable(bench_ledger ${CMAKE_CURRENT_LIST_DIR}/bench_ledger.c)
    target_link_libraries(bench_ledger PRIVATE receipts)
endif()
