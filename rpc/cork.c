#include "rpc/cork.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define MAX_ANSWERS 32

/* Of a unix socket it is refused, and not needed. */
static void set_cork(int fd, int is_corked)
{
    setsockopt(fd, IPPROTO_TCP, TCP_CORK, &is_corked, sizeof is_corked);
}

void rpc_cork_before_answer(struct rpc_cork *cork, int fd)
{
    size_t i = 0;

    cork->n_answers++;
    while (i < cork->n && cork->at[i].fd != fd)
        i++;
    if (i == RPC_CORK_CONNECTIONS)
        return;
    if (i == cork->n) {
        cork->at[i].fd = fd;
        cork->at[i].n_answers = 0;
        cork->n++;
    }
    if (++cork->at[i].n_answers == 2)
        set_cork(fd, true);
}

bool rpc_cork_is_waiting(const struct rpc_cork *cork)
{
    return cork->n_answers > 0;
}

bool rpc_cork_is_full(const struct rpc_cork *cork)
{
    return cork->n_answers >= MAX_ANSWERS;
}

void rpc_cork_pull(struct rpc_cork *cork)
{
    for (size_t i = 0; i < cork->n; i++)
        if (cork->at[i].n_answers > 1)
            set_cork(cork->at[i].fd, false);
    cork->n = 0;
    cork->n_answers = 0;
}
