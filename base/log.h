/* Structured lines on stderr, logfmt or JSON.
 *
 *     kv_log(KV_LOG_INFO, "kvpool::server", "listening",
 *         KV_LOG_TEXT("address", address), KV_LOG_UINT("port", port));
 *
 *     time=2026-11-21T20:00:46.123Z level=info target=kvpool::server
 *         msg=listening address=127.0.0.1 port=7440              (one line)
 *
 * Without a field, KV_LOG_END stands in its place.
 *
 * Any thread; a line is one write(2), so lines never mix. Nothing is allocated;
 * a line is cut at 4 KiB. Values are escaped: no byte of a client's can end a
 * line or start a field. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_log_level { KV_LOG_DEBUG, KV_LOG_INFO, KV_LOG_WARN, KV_LOG_ERROR };

enum kv_log_format { KV_LOG_LOGFMT, KV_LOG_JSON };

enum kv_log_kind {
    KV_LOG_KIND_END,
    KV_LOG_KIND_TEXT,
    KV_LOG_KIND_INT,
    KV_LOG_KIND_UINT,
    KV_LOG_KIND_REAL,
    KV_LOG_KIND_BOOL,
};

struct kv_log_field {
    const char *key; /* borrowed for the call */
    enum kv_log_kind kind;
    union {
        const char *text;
        int64_t integer;
        uint64_t unsigned_integer;
        double real;
        bool boolean;
    } value;
};

#define KV_LOG_TEXT(k, v)                                                      \
    ((struct kv_log_field){                                                    \
        .key = (k), .kind = KV_LOG_KIND_TEXT, .value.text = (v)})
#define KV_LOG_INT(k, v)                                                       \
    ((struct kv_log_field){                                                    \
        .key = (k), .kind = KV_LOG_KIND_INT, .value.integer = (v)})
#define KV_LOG_UINT(k, v)                                                      \
    ((struct kv_log_field){                                                    \
        .key = (k), .kind = KV_LOG_KIND_UINT, .value.unsigned_integer = (v)})
#define KV_LOG_REAL(k, v)                                                      \
    ((struct kv_log_field){                                                    \
        .key = (k), .kind = KV_LOG_KIND_REAL, .value.real = (v)})
#define KV_LOG_BOOL(k, v)                                                      \
    ((struct kv_log_field){                                                    \
        .key = (k), .kind = KV_LOG_KIND_BOOL, .value.boolean = (v)})
#define KV_LOG_END ((struct kv_log_field){.kind = KV_LOG_KIND_END})

/* Process-wide; the defaults are INFO, LOGFMT and descriptor 2. Any thread. */
void kv_log_set_level(enum kv_log_level level);
void kv_log_set_format(enum kv_log_format format);
void kv_log_set_fd(int fd);

/* The reverse of the names "debug", "info", "warn", "error", and "logfmt",
 * "json"; false for any other. */
bool kv_log_level_parse(const char *name, enum kv_log_level *out);
bool kv_log_format_parse(const char *name, enum kv_log_format *out);

void kv_log_fields(enum kv_log_level level, const char *target,
    const char *message, const struct kv_log_field *fields);

/* Whether the log is to hear of what has now happened so many times: ever more
 * seldom, the first time, the second, the fourth and so on. */
bool kv_log_is_due(uint64_t n_times);

#define kv_log(level, target, message, ...)                                    \
    kv_log_fields(level, target, message,                                      \
        (const struct kv_log_field[]){__VA_ARGS__, KV_LOG_END})

#endif
