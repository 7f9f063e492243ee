/* The same Evict request again: who repeats whom, and what a repeat is told.
 *
 *   first   begin ──> (decide) ──> decided ──────┬──> its answer
 *   repeat  find ──> wait, till that is decided ──┘
 *
 * A request is the same if its digest is. Repeats that come while the first is
 * undecided wait on evict_repeats.
 *
 * Thread: the owner's. */
#ifndef SERVER_EVICT_REPEAT_H
#define SERVER_EVICT_REPEAT_H

#include "server/evict_answer.h"
#include "server/evict_decision.h"

/* At a start; fini even if it failed. KV_NO_MEMORY. */
enum kv_status evict_repeat_init(struct server *server);
void evict_repeat_fini(struct server *server);

/* SHA-256 of the request without its id and paging; false: no memory. */
bool evict_repeat_digest(struct server *server,
    const Kvpool__V1__EvictRequest *request,
    uint8_t digest[CALLS_DIGEST_BYTES]);

/* Sets known and page_begin of the answer: the call that this one repeats
 * (*repeats), or a new one with room for n_outcomes. Not KV_OK: *error says
 * why, but for KV_NO_MEMORY. The caller releases known. */
enum kv_status evict_repeat_find(struct evict_answer *answer,
    const uint8_t digest[CALLS_DIGEST_BYTES], size_t n_outcomes, bool *repeats,
    struct rpc_error *error);

/* Answers a repeat, now or when the first is decided. */
void evict_repeat_answer(struct evict_answer *answer);

/* The first is decided: it is remembered, and those that wait for it are
 * answered. */
void evict_repeat_decided(const struct evict_answer *first);

/* The first is refused before it was begun, and so is whoever waits for it: it
 * is forgotten. The first drops its reference with this. */
void evict_repeat_refused(struct evict_answer *first);

#endif
