/* Follows a server's receipts over cuts of the connection.
 *
 *   connect ─> stream ─> take each new receipt ─> ... ─> end
 *      ^                                  │ cut
 *      └── pause, then from the same place┘
 *
 * The first connection must work; after that a cut is told on stderr and mended
 * until --timeout, counted from the cut, is over. */
#ifndef CLI_FOLLOW_H
#define CLI_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "cli/tail.h"

/* The caller's memory: the first group set, the rest zero, tail started. */
struct follower {
    struct cli *cli;
    uint32_t max_batch; /* 0: the server's default */
    uint64_t n_left;    /* ends after so many more receipts */
    uint64_t last;      /* ends with the receipt of this sequence */
    bool no_reconnect;

    /* A new receipt. Anything but CLI_OK ends with it. Borrowed for the call.
     */
    enum cli_exit (*take)(void *ctx, const Kvpool__V1__Receipt *receipt);
    /* The same for a part of the state, and for a gap. NULL: a gap is told on
     * stderr, a part passes. */
    enum cli_exit (*take_state)(
        void *ctx, const Kvpool__V1__SnapshotChunk *part);
    enum cli_exit (*take_gap)(void *ctx, const Kvpool__V1__Gap *gap);
    void *ctx;

    struct tail tail;
    bool connected; /* a message came, ever */
    bool away;      /* since the cut at cut_ns */
    int64_t cut_ns;
};

/* CLI_OK: the end that was asked for, or output that nobody reads. */
enum cli_exit follow_receipts(struct follower *follower);

/* The last receipt that can be read now, 0 if there is none. Receipts that are
 * off are a failure, which has been told. */
enum cli_exit follow_end(struct cli *cli, uint64_t *last);

#endif
