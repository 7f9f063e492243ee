/* What can be set about an http sink, and what makes no sense together.
 *
 * Thread: any. */
#ifndef SINKS_HTTP_SETTINGS_H
#define SINKS_HTTP_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "sinks/sink_kind.h"

struct http_settings {
    const char *url, *source, *token_file, *ca_file, *proxy;
    uint64_t batch_receipts, batch_bytes, linger_ms;
    uint64_t connect_timeout_ms, timeout_ms;
    uint64_t retry_least_ms, retry_most_ms, retry_after_most_ms;
    uint64_t give_up_s, close_ms;
    bool gzip;
};

#define HTTP_N_SETTINGS 16
extern const struct sink_setting http_settings_table[HTTP_N_SETTINGS];

/* As check of a sink_kind. */
enum kv_status http_settings_check(
    const void *given, const char **field, struct kv_error *error);

/* Texts of a copy are its own. KV_NO_MEMORY. */
enum kv_status http_settings_copy(
    struct http_settings *out, const struct http_settings *given);
void http_settings_free(struct http_settings *settings);

#endif
