/* Subscribers of a stream of receipts, each on a connection of its own, for a
 * while:
 *
 *     bench_fanout ADDRESS SUBSCRIBERS SECONDS [REQUEST_HEX|-] [SERVER_PID]
 *                  [REPLAY]
 *
 * prints receipts delivered per second (entries of field 1, counted without
 * unpacking them), messages, bytes, and the server's CPU time per receipt. Who
 * has taken REPLAY receipts cancels and subscribes again, on the same
 * connection: with a request that starts at the earliest receipt the server has
 * always something to send. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "base/clock.h"
#include "bench/load.h"

#define WARM_UP_NS KV_NS_PER_S

static const char path[] = "/kvpool.v1.KvPoolService/StreamReceipts";

struct counts {
    uint64_t receipts, messages, bytes;
};

struct subscriber {
    grpc_channel *channel;
    grpc_call *core;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
    grpc_byte_buffer *message;
    struct counts counts;
    uint64_t n_of_call; /* receipts */
    unsigned n_pending; /* tags of the call that have not come */
    bool restarting;
    char tags[3]; /* their addresses are the tags of its batches */
};

enum { TAG_OPENED, TAG_MESSAGE, TAG_STATUS };

struct bench {
    grpc_completion_queue *queue;
    struct subscriber *subscribers;
    size_t n_subscribers, n_over;
    grpc_slice request;
    uint64_t replay; /* 0: never */
    bool stopping;
};

static void start_batch(
    struct subscriber *subscriber, const grpc_op *ops, size_t n_ops, int tag)
{
    if (grpc_call_start_batch(subscriber->core, ops, n_ops,
            &subscriber->tags[tag], NULL) != GRPC_CALL_OK)
        abort();
    subscriber->n_pending++;
}

static void read_message(struct subscriber *subscriber)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE,
        .data.recv_message.recv_message = &subscriber->message};

    subscriber->message = NULL;
    start_batch(subscriber, &op, 1, TAG_MESSAGE);
}

static void subscribe(struct bench *bench, struct subscriber *subscriber)
{
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&bench->request, 1);
    grpc_op ops[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
            .data.recv_initial_metadata.recv_initial_metadata =
                &subscriber->initial},
    };
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
        .data.recv_status_on_client = {
            .trailing_metadata = &subscriber->trailing,
            .status = &subscriber->status,
            .status_details = &subscriber->details}};

    grpc_metadata_array_init(&subscriber->initial);
    grpc_metadata_array_init(&subscriber->trailing);
    subscriber->n_of_call = 0;
    subscriber->restarting = false;
    subscriber->core = grpc_channel_create_call(subscriber->channel, NULL,
        GRPC_PROPAGATE_DEFAULTS, bench->queue,
        grpc_slice_from_static_string(path), NULL,
        gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    start_batch(subscriber, ops, 4, TAG_OPENED);
    start_batch(subscriber, &status, 1, TAG_STATUS);
    read_message(subscriber);
    grpc_byte_buffer_destroy(message);
}

/* ---- counting */

static uint64_t read_varint(const uint8_t **at, const uint8_t *end)
{
    uint64_t value = 0;

    for (unsigned shift = 0; *at < end && shift < 64; shift += 7) {
        value |= (uint64_t)(**at & 0x7f) << shift;
        if ((*(*at)++ & 0x80) == 0)
            return value;
    }
    fprintf(stderr, "bench_fanout: a message is cut off\n");
    exit(EXIT_FAILURE);
}

static uint64_t count_receipts(const uint8_t *at, const uint8_t *end)
{
    uint64_t n = 0, tag, value;

    while (at < end) {
        tag = read_varint(&at, end);
        value = read_varint(&at, end);
        n += tag == (1 << 3 | 2);
        if ((tag & 7) == 2)
            at += value;
    }
    return n;
}

static void count_message(struct subscriber *subscriber)
{
    grpc_byte_buffer_reader reader;
    grpc_slice bytes;
    uint64_t n;

    grpc_byte_buffer_reader_init(&reader, subscriber->message);
    bytes = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    n = count_receipts(GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_END_PTR(bytes));
    subscriber->n_of_call += n;
    subscriber->counts.receipts += n;
    subscriber->counts.bytes += GRPC_SLICE_LENGTH(bytes);
    subscriber->counts.messages++;
    grpc_slice_unref(bytes);
    grpc_byte_buffer_destroy(subscriber->message);
}

static struct counts total(const struct bench *bench)
{
    struct counts sum = {0};

    for (size_t i = 0; i < bench->n_subscribers; i++) {
        sum.receipts += bench->subscribers[i].counts.receipts;
        sum.messages += bench->subscribers[i].counts.messages;
        sum.bytes += bench->subscribers[i].counts.bytes;
    }
    return sum;
}

/* ---- running */

static struct subscriber *owner_of(const struct bench *bench, const char *tag)
{
    size_t offset = (size_t)(tag - (const char *)bench->subscribers);

    return &bench->subscribers[offset / sizeof *bench->subscribers];
}

static void unsubscribe(struct subscriber *subscriber)
{
    grpc_metadata_array_destroy(&subscriber->initial);
    grpc_metadata_array_destroy(&subscriber->trailing);
    grpc_slice_unref(subscriber->details);
    grpc_call_unref(subscriber->core);
}

/* One of a call's tags has come; after the last the next call begins. */
static void on_tag(struct bench *bench, struct subscriber *subscriber)
{
    if (--subscriber->n_pending > 0)
        return;
    unsubscribe(subscriber);
    if (bench->stopping)
        bench->n_over++;
    else
        subscribe(bench, subscriber);
}

static void on_status(struct bench *bench, struct subscriber *subscriber)
{
    char *words;

    if (bench->stopping || subscriber->restarting)
        return;
    words = grpc_slice_to_c_string(subscriber->details);
    fprintf(stderr, "bench_fanout: a stream ended with %d: %s\n",
        (int)subscriber->status, words);
    gpr_free(words);
    exit(EXIT_FAILURE);
}

static void on_message(struct bench *bench, struct subscriber *subscriber)
{
    if (subscriber->message == NULL)
        return;
    count_message(subscriber);
    if (bench->stopping)
        return;
    if (bench->replay > 0 && subscriber->n_of_call >= bench->replay) {
        subscriber->restarting = true;
        grpc_call_cancel(subscriber->core, NULL);
    } else {
        read_message(subscriber);
    }
}

static void run(struct bench *bench, int64_t until_ns)
{
    const gpr_timespec tick = gpr_time_from_millis(100, GPR_TIMESPAN);
    struct subscriber *subscriber;
    grpc_event event;
    int64_t tag;

    while (bench->stopping ? bench->n_over < bench->n_subscribers
                           : kv_clock_mono_ns() < until_ns) {
        event = grpc_completion_queue_next(bench->queue,
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), tick), NULL);
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        subscriber = owner_of(bench, event.tag);
        tag = (const char *)event.tag - subscriber->tags;
        if (tag == TAG_STATUS)
            on_status(bench, subscriber);
        else if (tag == TAG_MESSAGE)
            on_message(bench, subscriber);
        on_tag(bench, subscriber);
    }
}

static void report(const struct bench *bench, const struct counts *before,
    int64_t wall_ns, int64_t cpu_ns)
{
    const struct counts after = total(bench);
    double seconds = (double)wall_ns / 1e9;
    double receipts = (double)(after.receipts - before->receipts);
    double messages = (double)(after.messages - before->messages);
    uint64_t least = UINT64_MAX, most = 0;

    for (size_t i = 0; i < bench->n_subscribers; i++) {
        uint64_t n = bench->subscribers[i].counts.receipts;

        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    printf("receipts_per_s=%.0f messages_per_s=%.0f mb_per_s=%.1f "
           "receipts_per_message=%.1f server_cpu_us_per_receipt=%.3f "
           "least=%llu most=%llu\n",
        receipts / seconds, messages / seconds,
        (double)(after.bytes - before->bytes) / 1e6 / seconds,
        messages > 0 ? receipts / messages : 0,
        receipts > 0 ? (double)cpu_ns / 1000 / receipts : 0,
        (unsigned long long)least, (unsigned long long)most);
}

static void measure(struct bench *bench, int64_t duration_ns, int pid)
{
    struct counts before;
    int64_t started_ns, cpu_ns;

    run(bench, kv_clock_mono_ns() + WARM_UP_NS);
    before = total(bench);
    started_ns = kv_clock_mono_ns();
    cpu_ns = load_cpu_ns(pid);
    run(bench, started_ns + duration_ns);
    report(bench, &before, kv_clock_mono_ns() - started_ns,
        load_cpu_ns(pid) - cpu_ns);
}

static void stop(struct bench *bench)
{
    bench->stopping = true;
    for (size_t i = 0; i < bench->n_subscribers; i++)
        grpc_call_cancel(bench->subscribers[i].core, NULL);
    run(bench, 0);
    for (size_t i = 0; i < bench->n_subscribers; i++)
        grpc_channel_destroy(bench->subscribers[i].channel);
    grpc_completion_queue_shutdown(bench->queue);
    grpc_completion_queue_destroy(bench->queue);
}

int main(int argc, char **argv)
{
    struct bench bench = {
        .n_subscribers = argc > 2 ? (size_t)atoi(argv[2]) : 0};

    if (argc < 4 || argc > 7 || bench.n_subscribers == 0 ||
        !load_parse_hex(argc > 4 ? argv[4] : "-", &bench.request)) {
        fprintf(stderr, "usage: bench_fanout ADDRESS SUBSCRIBERS SECONDS "
                        "[REQUEST_HEX|-] [SERVER_PID] [REPLAY]\n");
        return EXIT_FAILURE;
    }
    bench.subscribers = calloc(bench.n_subscribers, sizeof *bench.subscribers);
    if (bench.subscribers == NULL)
        return EXIT_FAILURE;
    bench.replay = argc > 6 ? (uint64_t)atoll(argv[6]) : 0;
    grpc_init();
    for (size_t i = 0; i < bench.n_subscribers; i++)
        bench.subscribers[i].channel = load_channel(argv[1]);
    bench.queue = grpc_completion_queue_create_for_next(NULL);
    for (size_t i = 0; i < bench.n_subscribers; i++)
        subscribe(&bench, &bench.subscribers[i]);
    measure(&bench, (int64_t)(atof(argv[3]) * (double)KV_NS_PER_S),
        argc > 5 ? atoi(argv[5]) : 0);
    stop(&bench);
    grpc_slice_unref(bench.request);
    grpc_shutdown_blocking();
    free(bench.subscribers);
    return EXIT_SUCCESS;
}
