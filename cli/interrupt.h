/* SIGINT and SIGTERM for a program that blocks in gRPC: a thread waits for
 * them, so that nothing runs in a signal handler.
 *
 *   open ─> [signal: the process ends with 130]
 *           watch(client) ─> [signal: the client is woken, interrupt_seen;
 *           unwatch           a second one ends the process]  ─> close
 *
 * NULL in place of an interrupt is one that never comes (tests). */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "rpc/client.h"

struct interrupt;

/* Before any other thread is started: they inherit the blocked signals. */
enum kv_status interrupt_open(struct interrupt **out, struct kv_error *error);
void interrupt_close(struct interrupt *interrupt);

/* From here on the first signal is told to the caller, who ends in order. */
void interrupt_watch(struct interrupt *interrupt, struct rpc_client *client);

/* The client may be closed after this. The promise to end in order stays. */
void interrupt_unwatch(struct interrupt *interrupt);

bool interrupt_seen(struct interrupt *interrupt);

/* Sleeps; true if a signal cut it short or had come before. */
bool interrupt_sleep(struct interrupt *interrupt, int64_t duration_ns);

#endif
