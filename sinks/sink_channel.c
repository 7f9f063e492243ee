#include "sinks/sink_channel.h"

#include <assert.h>
#include <stdio.h>

#include "base/heap.h"

struct sink_channel {
    struct sink sink;
    size_t capacity, begin, n;
    Kvpool__V1__Receipt **receipts; /* a ring of `capacity` */
};

static struct sink_channel *channel_of(struct sink *sink)
{
    return (struct sink_channel *)(void *)sink;
}

static enum kv_status put_receipt(
    struct sink_channel *channel, const unsigned char *bytes, size_t n_bytes)
{
    Kvpool__V1__Receipt *receipt;

    if (channel->n == channel->capacity)
        return KV_BUSY;
    receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    if (receipt == NULL)
        return KV_NO_MEMORY;
    channel->receipts[(channel->begin + channel->n) % channel->capacity] =
        receipt;
    channel->n++;
    return KV_OK;
}

static enum kv_status channel_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct sink_channel *channel = channel_of(sink);
    const unsigned char *at = run->bytes, *bytes;
    enum kv_status status = KV_OK;
    size_t n_bytes;

    *n_taken = 0;
    while (status == KV_OK && feed_run_entry(run, &at, &bytes, &n_bytes)) {
        status = put_receipt(channel, bytes, n_bytes);
        *n_taken += status == KV_OK;
    }
    return status;
}

static Kvpool__V1__Receipt *pop(struct sink_channel *channel)
{
    Kvpool__V1__Receipt *receipt = channel->receipts[channel->begin];

    channel->begin = (channel->begin + 1) % channel->capacity;
    channel->n--;
    return receipt;
}

Kvpool__V1__Receipt *sink_channel_take(struct sink *sink)
{
    struct sink_channel *channel = channel_of(sink);
    Kvpool__V1__Receipt *receipt;

    if (channel->n == 0)
        return NULL;
    receipt = pop(channel);
    if (sink->waits)
        sink_ready(sink);
    return receipt;
}

static void channel_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct sink_channel *channel = channel_of(sink);

    while (channel->n > 0)
        kvpool__v1__receipt__free_unpacked(pop(channel), NULL);
    kv_free(channel->receipts);
    closed(sink, ctx);
}

enum kv_status sink_channel_open(
    struct sink **out, const char *name, size_t capacity)
{
    static const struct sink_ops ops = {
        .kind = "channel", .offer = channel_offer, .close = channel_close};
    struct sink_channel *channel;

    assert(capacity > 0);
    channel = kv_calloc(1, sizeof *channel);
    if (channel == NULL)
        goto fail;
    channel->receipts = kv_calloc(capacity, sizeof(Kvpool__V1__Receipt *));
    if (channel->receipts == NULL)
        goto free_channel;
    channel->capacity = capacity;
    channel->sink.ops = &ops;
    snprintf(channel->sink.name, sizeof channel->sink.name, "%s", name);
    *out = &channel->sink;
    return KV_OK;

free_channel:
    kv_free(channel);
fail:
    return KV_NO_MEMORY;
}
