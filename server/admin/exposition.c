#include "server/admin/exposition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"

#define NS_PER_S 1000000000
#define FIRST_ROOM 16384

static const char *const kind_names[] = {
    [EXPOSITION_COUNTER] = "counter",
    [EXPOSITION_GAUGE] = "gauge",
    [EXPOSITION_HISTOGRAM] = "histogram",
};

/* ---- text */

static bool make_room(struct exposition *out, size_t n)
{
    size_t room = out->room > 0 ? out->room : FIRST_ROOM;
    char *text;

    while (room - out->n_bytes < n)
        room *= 2;
    if (room == out->room)
        return true;
    text = kv_realloc(out->text, room);
    if (text == NULL) {
        out->lacks_memory = true;
        return false;
    }
    out->text = text;
    out->room = room;
    return true;
}

static void append(struct exposition *out, const char *text, size_t n)
{
    if (out->lacks_memory || !make_room(out, n))
        return;
    memcpy(out->text + out->n_bytes, text, n);
    out->n_bytes += n;
}

/* Of short things: what does not fit is a mistake of ours. */
__attribute__((format(printf, 2, 3))) static void print(
    struct exposition *out, const char *format, ...)
{
    char text[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    append(out, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

static void append_escaped(struct exposition *out, const char *value)
{
    for (; *value != '\0'; value++) {
        size_t n = strcspn(value, "\\\"\n");

        append(out, value, n);
        value += n;
        if (*value == '\0')
            return;
        append(out, *value == '\n' ? "\\n" : (char[]){'\\', *value}, 2);
    }
}

static void print_label(
    struct exposition *out, const struct exposition_label *label, bool first)
{
    print(out, "%s%s=\"", first ? "{" : ",", label->name);
    append_escaped(out, label->value);
    append(out, "\"", 1);
}

/* The name and labels of a sample, and the blank before its value. */
static void begin_sample(struct exposition *out, const char *suffix,
    const struct exposition_labels *labels)
{
    print(out, "%s%s", out->family, suffix);
    for (size_t i = 0; i < labels->n; i++)
        print_label(out, &labels->list[i], i == 0);
    print(out, labels->n > 0 ? "} " : " ");
}

static void print_seconds(struct exposition *out, int64_t ns)
{
    print(out, "%s%" PRIu64 ".%09" PRIu64 "\n", ns < 0 ? "-" : "",
        (uint64_t)(ns < 0 ? -(ns / NS_PER_S) : ns / NS_PER_S),
        (uint64_t)(ns < 0 ? -(ns % NS_PER_S) : ns % NS_PER_S));
}

/* ---- families and samples */

void exposition_family(struct exposition *out, const char *name,
    enum exposition_kind kind, const char *help)
{
    out->family = name;
    print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name,
        kind_names[kind]);
}

void exposition_uint(
    struct exposition *out, uint64_t value, struct exposition_labels labels)
{
    begin_sample(out, "", &labels);
    print(out, "%" PRIu64 "\n", value);
}

void exposition_seconds(
    struct exposition *out, int64_t ns, struct exposition_labels labels)
{
    begin_sample(out, "", &labels);
    print_seconds(out, ns);
}

/* The format's buckets count everything up to their bounds. */
void exposition_histogram(struct exposition *out, const int64_t *bounds_ns,
    const uint64_t *counts, size_t n_bounds, int64_t sum_ns)
{
    uint64_t n = 0;

    for (size_t i = 0; i < n_bounds; i++) {
        n += counts[i];
        print(out, "%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", out->family,
            (double)bounds_ns[i] / NS_PER_S, n);
    }
    n += counts[n_bounds];
    print(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", out->family, n);
    print(out, "%s_sum ", out->family);
    print_seconds(out, sum_ns);
    print(out, "%s_count %" PRIu64 "\n", out->family, n);
}

enum kv_status exposition_status(const struct exposition *exposition)
{
    return exposition->lacks_memory ? KV_NO_MEMORY : KV_OK;
}

void exposition_fini(struct exposition *exposition)
{
    kv_free(exposition->text);
    *exposition = (struct exposition){.text = NULL};
}
