/* Looks every second whether somebody has written into the model's file, so
 * that a server with nothing to compute says so before the next request does.
 * (A step's end looks as well, and nobody is shown what a spoilt one has
 * computed.)
 *
 *   model_watch_open ─> model_watch_start ─> model_watch_close
 *
 * A file system of the network may let who asks wait: a thread of libuv's pool
 * asks. Thread: the owner's. */
#ifndef SERVER_MODEL_WATCH_H
#define SERVER_MODEL_WATCH_H

#include <pthread.h>
#include <stdbool.h>

#include "server/work.h"

struct model_watch {
    struct server *server;
    uv_timer_t tick;
    struct work look;
    bool looking;
    pthread_mutex_t mutex; /* while the model is looked at */
    bool closed;           /* it must not be any more; under mutex */
};

void model_watch_open(struct model_watch *watch, struct server *server);
void model_watch_start(struct model_watch *watch);

/* Nobody looks at the model after this; the loop has handles to close yet. */
void model_watch_close(struct model_watch *watch);

#endif
