# The ledger alone: what numbering costs the owner, and what a reader costs; and
# its journal on a disk, beside SQLite.
if(KVPOOL_RECEIPTS)
    add_executable(bench_ledger ${CMAKE_CURRENT_LIST_DIR}/bench_ledger.c)
    target_link_libraries(bench_ledger PRIVATE receipts)
    pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
    add_executable(bench_journal ${CMAKE_CURRENT_LIST_DIR}/bench_journal.c)
    target_link_libraries(bench_journal PRIVATE receipts PkgConfig::SQLITE)

    # A ledger on disk: what verifying it costs.
    add_executable(bench_verify ${CMAKE_CURRENT_LIST_DIR}/bench_verify.c)
    target_link_libraries(bench_verify PRIVATE receipts)
endif()
