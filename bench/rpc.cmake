# Load clients for gRPC, and the C++ peer that they are compared with. This is
# the only C++ here, and only benchmarks ask for a compiler for it.
enable_language(CXX)
pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)

foreach(program bench_unary bench_fanout)
    add_executable(${program} ${CMAKE_CURRENT_LIST_DIR}/${program}.c
        ${CMAKE_CURRENT_LIST_DIR}/load.c)
    target_link_libraries(${program} PRIVATE base PkgConfig::GRPC)
endforeach()

add_executable(bench_peer_echo ${CMAKE_CURRENT_LIST_DIR}/peers/echo_server.cc)
set_target_properties(bench_peer_echo PROPERTIES COMPILE_OPTIONS "") # ours are for C
target_compile_features(bench_peer_echo PRIVATE cxx_std_17)
target_link_libraries(bench_peer_echo PRIVATE PkgConfig::GRPCPP)
