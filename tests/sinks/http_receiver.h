/* A target of batches that behaves as told, on the loop of the test: what it
 * accepts it keeps, as the ids of events in the order of arrival. */
#ifndef TESTS_SINKS_HTTP_RECEIVER_H
#define TESTS_SINKS_HTTP_RECEIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <uv.h>

enum receiver_mood {
    RECEIVER_ACCEPTS, /* 204 */
    RECEIVER_ANSWERS, /* `answer`, verbatim, and keeps nothing */
    RECEIVER_STALLS,  /* half a status line, and no more */
    RECEIVER_RESETS,  /* in the middle of the request */
    RECEIVER_FORGETS, /* keeps the batch and hangs up without an answer */
    RECEIVER_DRIPS,   /* accepts, a byte of the answer at a time */
    RECEIVER_FLOODS,  /* accepts, with an answer without end */
};

struct receiver_request {
    char *head; /* the request line and headers */
    char *body; /* unpacked if it was packed */
    size_t n_body;
};

struct http_receiver {
    uv_loop_t *loop;
    uv_tcp_t listener;
    int port;
    char url[64];
    enum receiver_mood mood;
    const char *answer;
    unsigned n_requests; /* complete, or reset */
    unsigned n_connections;
    struct receiver_request last; /* the last complete request */
    json_t *ids;                  /* of accepted events, in order */
    json_t *events;               /* by id: the event, of the first time */
};

void http_receiver_init(struct http_receiver *receiver, uv_loop_t *loop);
/* Stops listening; its port refuses connections then. */
void http_receiver_stop(struct http_receiver *receiver);
void http_receiver_start_again(struct http_receiver *receiver);
/* Call before the loop is run out. */
void http_receiver_fini(struct http_receiver *receiver);

/* A header of the last request, or NULL; borrowed until the next call. */
const char *http_receiver_header(
    const struct http_receiver *receiver, const char *name);

#endif
