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

/* One method of one server, over a connection of its own. */
struct load_target {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    void *method;
};
void load_target_open(
    struct load_target *target, const char *address, const char *path);
void load_target_close(struct load_target *target); /* with nothing under way */

/* A unary call of it: the caller sets request, starts, and looks at the rest
 * between load_call_next, which waits for any call to be over, and finish. */
struct load_call {
    grpc_slice request;
    grpc_call *core;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    grpc_byte_buffer *answer;
    int64_t started_ns;
};
void load_call_start(struct load_call *call, struct load_target *target);
struct load_call *load_call_next(struct load_target *target);
void load_call_finish(struct load_call *call);

#endif
