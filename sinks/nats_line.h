/* A line to a broker: a connection, a subscription that acknowledgements come
 * to, and a stream that was looked at and takes our messages.
 *
 * Thread: one, which its calls block: on names, connections, TLS, answers. */
#ifndef SINKS_NATS_LINE_H
#define SINKS_NATS_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include <nats/nats.h>

#include "sinks/sink.h"

#define NATS_MAX_URLS 16
#define NATS_NAME_BYTES 200 /* of a stream, and of the subject's prefix */

struct nats_settings {
    const char *url, *stream, *subject, *payload;
    const char *user, *password_file, *token_file, *credentials_file, *ca_file;
    uint64_t duplicate_window_s;
    uint64_t max_pending, max_pending_bytes;
    uint64_t connect_timeout_ms, ack_timeout_ms;
    uint64_t retry_least_ms, retry_most_ms;
    uint64_t close_ms;
    bool create_stream;
};

/* The caller's; zeroed but for settings, it is closed. */
struct nats_line {
    const struct nats_settings *settings;
    natsConnection *connection;
    natsSubscription *replies;
    natsInbox *inbox; /* an answer's subject is this, a dot and what we add */
    char error[SINK_ERROR_BYTES];
    bool is_hopeless; /* it will be the same with every try */
};

/* false: see error. To be closed either way. */
bool nats_line_open(struct nats_line *line);
void nats_line_close(struct nats_line *line);

/* Sets error, and returns false; with what the library has to say. */
__attribute__((format(printf, 2, 3))) bool nats_line_fail(
    struct nats_line *line, const char *format, ...);
bool nats_line_fail_status(
    struct nats_line *line, const char *what, natsStatus status);

/* The URLs of a list parted by commas; they lie in the copy, which is cut.
 * Returns how many, at most NATS_MAX_URLS. */
int nats_line_split_urls(char *copy, const char **urls);

#endif
