/* A real server on a loop of its own thread that answers as kvpoold would, from
 * a script. */
#ifndef TESTS_CLI_STAND_IN_H
#define TESTS_CLI_STAND_IN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "rpc/server.h"

enum stand_in_end {
    STAND_IN_STAYS,       /* the stream goes on when all was sent */
    STAND_IN_UNAVAILABLE, /* each stream ends so after two messages */
    STAND_IN_CLOSING,     /* the same, with `closing` and OK */
    STAND_IN_STALLED,     /* the same, as for a reader that took nothing */
};

/* What it does; set before it starts. */
struct stand_in_script {
    bool not_serving;
    uint64_t n_receipts; /* it holds 1 to this, three in a message */
    enum stand_in_end end;
    uint64_t n_repeated;  /* of those a stream asks after, sent again */
    uint64_t hole_before; /* this receipt's predecessor is left out; 0: none */
    uint64_t wrong_at;    /* this one does not add up; 0: none */
    bool new_ledger;      /* with another pool_id, it refuses the old one */
    uint32_t n_sessions;
};

struct stand_in {
    struct stand_in_script script;
    struct rpc_loop *loop;
    struct rpc_server *server;
    pthread_t thread;
    struct rpc_post stop_post;
    char address[128];
    _Atomic int n_streams, n_cancelled;
};

void stand_in_open(struct stand_in *stand_in,
    const struct stand_in_script *script, const char *address);

/* Ends whatever is open, as a server that was killed. */
void stand_in_close(struct stand_in *stand_in);

#endif
