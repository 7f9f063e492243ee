/* What the load clients have in common: a channel, bytes given in hexadecimal,
 * and the CPU time of the server that they load. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include <grpc/grpc.h>

/* A connection of its own. */
grpc_channel *load_channel(const char *address);

/* The bytes that text writes in hexadecimal; "-" is none. false: it does not.
 */
bool load_parse_hex(const char *text, grpc_slice *out);

/* CPU time of process pid so far, user and system; 0 if pid is 0. */
int64_t load_cpu_ns(int pid);

#endif
