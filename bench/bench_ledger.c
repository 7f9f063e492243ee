/* How fast the ledger numbers and encodes receipts, and hands them to readers.
 *
 * Numbered: evictions of one session each, with a few runs of blocks, their
 * zeroing reported at once. Delivered: every receipt to every cursor, in runs
 * of up to 256, as streams take them; encoded bytes are shared, so a delivery
 * is what finding, holding and giving back its part of a run costs. No network:
 * that is the service's benchmark. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/measure.h"
#include "receipts/ledger.h"

#define N_RECEIPTS 204800
#define N_TURN 256
#define N_ROUNDS 5
#define BLOCK_BYTES 65536
#define MAX_EXTENTS 64
#define MAX_READERS 100

struct numbers {
    double receipts_per_s, deliveries_per_s;
    uint64_t mean_bytes;
};

static void evict(const struct pool_observer *observer, uint64_t i,
    size_t n_extents, struct pool_stats *stats)
{
    static struct pool_extent extents[MAX_EXTENTS];
    const struct pool_cause cause = {.reason = POOL_REASON_LRU};
    const struct pool_stats before = *stats;
    struct pool_eviction eviction = {
        .key = {"acme", 4, "conversation-4711", 17},
        .cause = &cause,
        .extents = extents,
        .n_extents = n_extents,
        .bytes_freed = n_extents * BLOCK_BYTES,
        .blocks_freed = n_extents,
        .tokens_freed = 16 * n_extents,
        .age_ns = 90 * KV_NS_PER_S,
        .idle_ns = 30 * KV_NS_PER_S,
        .hits = 3,
        .n_parts = 1,
        .part = 1,
        .before = &before,
        .after = stats,
        .scrub_id = i + 1,
        .mono_ns = (int64_t)i,
    };

    for (size_t k = 0; k < n_extents; k++)
        extents[k] =
            (struct pool_extent){(i % 64 + 2 * k) * BLOCK_BYTES, BLOCK_BYTES};
    stats->used_bytes -= eviction.bytes_freed;
    stats->freed_bytes_total += eviction.bytes_freed;
    stats->evictions++;
    observer->evicted(observer->ctx, &eviction);
    observer->scrubbed(observer->ctx, i + 1);
}

static uint64_t deliver(struct ledger *ledger, struct feed_cursor *cursor)
{
    struct feed_run run;
    uint64_t n = 0;

    while (feed_next(ledger, cursor, 256, 65536, &run) == KV_OK) {
        n += run.n_receipts;
        feed_run_release(run.chunk);
    }
    return n;
}

static struct numbers measure(size_t n_extents, size_t n_readers)
{
    const struct ledger_config config = {
        .ring_bytes = 64 << 20, .epoch = 1, .wall_ns = kv_clock_wall_ns};
    struct pool_stats stats = {.used_bytes = UINT64_C(1) << 50,
        .allocated_bytes_total = UINT64_C(1) << 50,
        .total_bytes = UINT64_C(1) << 50};
    struct feed_cursor cursors[MAX_READERS] = {{0}};
    const struct pool_observer *observer;
    int64_t numbering_ns = 0, delivery_ns = 0, start_ns;
    uint64_t n_delivered = 0;
    struct ledger *ledger;
    struct numbers out;

    if (ledger_open(&ledger, &config, NULL) != KV_OK)
        exit(EXIT_FAILURE);
    observer = ledger_observer(ledger);
    for (uint64_t i = 0; i < N_RECEIPTS;) {
        start_ns = kv_clock_mono_ns();
        for (size_t k = 0; k < N_TURN; k++)
            evict(observer, i++, n_extents, &stats);
        numbering_ns += kv_clock_mono_ns() - start_ns;
        start_ns = kv_clock_mono_ns();
        for (size_t r = 0; r < n_readers; r++)
            n_delivered += deliver(ledger, &cursors[r]);
        delivery_ns += kv_clock_mono_ns() - start_ns;
    }
    out.receipts_per_s = N_RECEIPTS * 1e9 / (double)numbering_ns;
    out.deliveries_per_s = (double)n_delivered * 1e9 / (double)delivery_ns;
    out.mean_bytes = ledger_position(ledger).stored_bytes /
                     (N_RECEIPTS + 1 - ledger_position(ledger).oldest_sequence);
    ledger_close(ledger);
    return out;
}

static void report(size_t n_extents, size_t n_readers)
{
    double numbered[N_ROUNDS], delivered[N_ROUNDS];
    struct numbers numbers = {0};

    for (int i = 0; i < N_ROUNDS; i++) {
        numbers = measure(n_extents, n_readers);
        numbered[i] = numbers.receipts_per_s;
        delivered[i] = numbers.deliveries_per_s;
    }
    printf("%8zu %8zu %10d %16.0f %18.0f\n", n_extents, n_readers,
        (int)numbers.mean_bytes, measure_median(numbered, N_ROUNDS),
        measure_median(delivered, N_ROUNDS));
}

int main(void)
{
    static const size_t n_readers[] = {1, 10, 100};

    printf("medians of %d, %d receipts each\n", N_ROUNDS, N_RECEIPTS);
    printf("%8s %8s %10s %16s %18s\n", "extents", "readers", "bytes",
        "numbered/s", "delivered/s");
    for (size_t i = 0; i < sizeof n_readers / sizeof *n_readers; i++) {
        report(1, n_readers[i]);
        report(16, n_readers[i]);
    }
    return EXIT_SUCCESS;
}
