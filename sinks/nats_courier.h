/* The courier of a nats sink: a thread that carries receipts to a broker and
 * alone speaks to the library, whose calls block.
 *
 *   owner                        courier
 *   nats_courier_offer ──> taken ──> mine ──publish──> broker
 *   nats_courier_news <─── acknowledged, failure ──ack──┘
 *
 * It is not waited for where it hangs in the library while the sink closes: it
 * has all it needs, and what it shares with the owner belongs to the last of
 * the two.
 *
 * Thread: the owner's, everything here. */
#ifndef SINKS_NATS_COURIER_H
#define SINKS_NATS_COURIER_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "sinks/nats_line.h"
#include "sinks/sink.h"

struct nats_courier;

/* Copies the settings; no thread yet. KV_NO_MEMORY. */
enum kv_status nats_courier_open(
    struct nats_courier **out, const struct nats_settings *settings);

/* Starts the thread, which sends `wake` when there is news, until
 * nats_courier_leave. 0, or an errno. */
int nats_courier_start(struct nats_courier *courier, uv_async_t *wake);

/* As offer of sink_ops. Takes while fewer than max_pending receipts, and bytes,
 * wait for their acknowledgement. */
enum kv_status nats_courier_offer(struct nats_courier *courier,
    const struct feed_run *run, uint32_t *n_taken);

/* What has happened since it was asked last. */
struct nats_news {
    uint64_t acknowledged; /* everything up to here, ever; 0: nothing yet */
    bool has_failed;       /* and is tried again */
    bool has_given_up;     /* and nothing is */
    char failure[SINK_ERROR_BYTES];
    bool has_ended;
};
struct nats_news nats_courier_news(struct nats_courier *courier);

/* To end when nothing is left to deliver; to end soon. */
void nats_courier_drain(struct nats_courier *courier);
void nats_courier_stop(struct nats_courier *courier);

/* The owner's half of the end, whether the thread has ended, was never started,
 * or goes on a while by itself. */
void nats_courier_leave(struct nats_courier *courier);

#endif
