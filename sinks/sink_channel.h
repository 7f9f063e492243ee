/* Receipts in a bounded queue, for tests and for programs that embed the pool.
 * While it is full the sink waits, and the ledger keeps what follows. */
#ifndef SINKS_SINK_CHANNEL_H
#define SINKS_SINK_CHANNEL_H

#include <stdbool.h>

#include "kvpool/v1/receipts.pb-c.h"
#include "sinks/sink.h"

/* The set that it is added to closes and frees it, with what nobody took.
 * capacity is at least 1. KV_NO_MEMORY. */
enum kv_status sink_channel_open(
    struct sink **out, const char *name, size_t capacity);

/* The oldest receipt in the channel, the caller's to free with
 * kvpool__v1__receipt__free_unpacked(receipt, NULL); NULL if it is empty. Its
 * place is free again. */
Kvpool__V1__Receipt *sink_channel_take(struct sink *sink);

#endif
