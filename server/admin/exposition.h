/* Numbers in Prometheus' text format, version 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/).
 *
 *     exposition_family(out, "kvpool_blocks", EXPOSITION_GAUGE, "Blocks.");
 *     exposition_uint(out, 3, LABELS({"state", "free"}));
 *     exposition_uint(out, 5, LABELS({"state", "cached"}));
 *
 * Lack of memory is remembered and said at the end. Thread: one at a time. */
#ifndef SERVER_ADMIN_EXPOSITION_H
#define SERVER_ADMIN_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* All zero is an empty one. */
struct exposition {
    char *text; /* kv_heap's; not ended by a NUL */
    size_t n_bytes, room;
    const char *family;
    bool lacks_memory;
};

enum exposition_kind {
    EXPOSITION_COUNTER, /* never falls while the process lives */
    EXPOSITION_GAUGE,
    EXPOSITION_HISTOGRAM,
};

/* A value may be any UTF-8. */
struct exposition_label {
    const char *name, *value;
};

struct exposition_labels {
    const struct exposition_label *list; /* [n] */
    size_t n;
};

#define LABELS(...)                                                            \
    ((struct exposition_labels){                                               \
        (const struct exposition_label[]){__VA_ARGS__},                        \
        sizeof((const struct exposition_label[]){__VA_ARGS__}) /               \
            sizeof(struct exposition_label)})
#define NO_LABELS ((struct exposition_labels){NULL, 0})

/* What follows belongs to it. The name is borrowed until the next family. */
void exposition_family(struct exposition *out, const char *name,
    enum exposition_kind kind, const char *help);

void exposition_uint(
    struct exposition *out, uint64_t value, struct exposition_labels labels);

/* A duration, or an instant of the wall clock, in seconds. */
void exposition_seconds(
    struct exposition *out, int64_t ns, struct exposition_labels labels);

/* Of durations: bounds_ns[n_bounds], ascending; counts[n_bounds + 1], each of
 * its own bucket, the last above every bound. */
void exposition_histogram(struct exposition *out, const int64_t *bounds_ns,
    const uint64_t *counts, size_t n_bounds, int64_t sum_ns);

/* KV_NO_MEMORY: the text is not complete. */
enum kv_status exposition_status(const struct exposition *exposition);

void exposition_fini(struct exposition *exposition);

#endif
