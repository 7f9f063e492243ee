# Load clients for gRPC, and the C++ peers that they are compared with. These are
# the only C++ here, and only benchmarks ask for a compiler for it.
enable_language(CXX)
find_library(GRPCPP_LIBRARY grpc++ REQUIRED)

foreach(program bench_unary bench_fanout)
    add_executable(${program} ${CMAKE_CURRENT_LIST_DIR}/${program}.c
        ${CMAKE_CURRENT_LIST_DIR}/load.c)
    target_link_libraries(${program} PRIVATE base grpc)
endforeach()

# What is done to sessions: over our own blocking client.
foreach(program bench_crowd bench_evict bench_generate bench_latency)
    add_executable(${program} ${CMAKE_CURRENT_LIST_DIR}/${program}.c
        ${CMAKE_CURRENT_LIST_DIR}/load.c ${CMAKE_CURRENT_LIST_DIR}/sessions.c)
    target_link_libraries(${program} PRIVATE rpc proto base grpc)
endforeach()

# The same fan-out on servers of other makers.
pkg_check_modules(NATS REQUIRED IMPORTED_TARGET libnats)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)
foreach(peer nats redis)
    add_executable(bench_peer_${peer} ${CMAKE_CURRENT_LIST_DIR}/peers/${peer}.c
        ${CMAKE_CURRENT_LIST_DIR}/load.c)
    target_link_libraries(bench_peer_${peer} PRIVATE base grpc Threads::Threads)
endforeach()
target_link_libraries(bench_peer_nats PRIVATE PkgConfig::NATS)
target_link_libraries(bench_peer_redis PRIVATE PkgConfig::HIREDIS)

foreach(peer echo stream)
    add_executable(bench_peer_${peer} ${CMAKE_CURRENT_LIST_DIR}/peers/${peer}_server.cc)
    set_target_properties(bench_peer_${peer} PROPERTIES COMPILE_OPTIONS "") # ours are for C
    target_compile_features(bench_peer_${peer} PRIVATE cxx_std_17)
    target_link_libraries(bench_peer_${peer} PRIVATE ${GRPCPP_LIBRARY} grpc)
endforeach()
