/* Answers of one turn of the loop on one connection leave together.
 *
 * Core sends each answer by a call of the kernel of its own, and over TCP most
 * of what that costs is the packet: the way down, up again on the other side,
 * and waking the peer. A client with many calls under way sends many in one
 * packet, so that their answers come one behind the other. So the first answer
 * goes at once, the connection is corked (TCP_CORK) before the second, and when
 * the turn is over, or after 32 answers, the cork is pulled.
 *
 *   rpc_cork_before_answer ... rpc_cork_pull
 *
 * A descriptor may have been closed meanwhile, by core, and be another's: then
 * the kernel refuses, or a socket is uncorked that was not corked.
 *
 * Private to rpc/. Thread: the loop's. */
#ifndef RPC_CORK_H
#define RPC_CORK_H

#include <stdbool.h>
#include <stddef.h>

#define RPC_CORK_CONNECTIONS 16 /* others are left as they are */

struct rpc_loop;

/* Zeroed: nothing is corked. */
struct rpc_cork {
    struct {
        int fd;
        unsigned n_answers;
    } at[RPC_CORK_CONNECTIONS];
    size_t n;
    unsigned n_answers;
};

/* The loop's. */
struct rpc_cork *rpc_loop_cork(struct rpc_loop *loop);

void rpc_cork_before_answer(struct rpc_cork *cork, int fd);

/* Whether the turn's end must be told. */
bool rpc_cork_is_waiting(const struct rpc_cork *cork);

/* As many answers as may wait do. */
bool rpc_cork_is_full(const struct rpc_cork *cork);

void rpc_cork_pull(struct rpc_cork *cork);

#endif
