/* The answer to an Evict call, from when it is known until it is sent.
 *
 *   ready ──┬──> sent, if nobody has to wait
 *           └──> on evict_calls ──> its receipts are durable, or never will
 *
 * It waits until the receipts are released, which is when the blocks have been
 * zeroed, and in the journal; unless the request asks for less. A call that is
 * remembered (receipts/calls.h) is answered page by page out of that memory,
 * the first time as well as when it is repeated.
 *
 * Thread: the owner's. Embed in the struct of the call. */
#ifndef SERVER_EVICT_ANSWER_H
#define SERVER_EVICT_ANSWER_H

#include "receipts/calls.h"
#include "server/server.h"

struct evict_answer {
    /* The caller's to set: what is answered, and to whom. */
    struct server *server;
    struct rpc_call *call;
    const Kvpool__V1__EvictRequest *request;
    Kvpool__V1__EvictResponse *response;       /* outcomes aside, if known */
    Kvpool__V1__EvictReceipts *receipts;       /* first, last, epoch */
    struct call *known;                        /* NULL: it has no request_id */
    size_t page_begin, page_size;              /* of known */
    void (*done)(struct evict_answer *answer); /* the call has ended */

    struct kv_list link;
    struct ledger_position position; /* what receipts points into */
    Kvpool__V1__ReceiptsOff receipts_off;
};

/* Answers now, or when the receipts are durable: done is called then. */
void evict_answer_ready(struct evict_answer *answer);

/* Answers at once that receipts cannot be kept now, and nothing was touched. */
void evict_answer_refuse(struct evict_answer *answer);

/* At a start: before the first answer. */
void evict_answers_begin(struct server *server);

#endif
