/* What the rooms of the scheduler share: its state, and what they ask of each
 * other.
 *
 *   scheduler.c            opens, closes; how requests come and end, and the
 *                          two queues that they are on between
 *   scheduler_admission.c  who goes in, and who has to wait
 *   scheduler_room.c       blocks for those that run, from whom they are taken,
 *                          and who waits for pins and leases to end
 *   scheduler_step.c       what is computed next, and what came of it
 *
 * A request is on one queue, and anything that ends it takes it off: whoever
 * walks along a queue must be ready for that. */
#ifndef ENGINE_SCHEDULER_INTERNAL_H
#define ENGINE_SCHEDULER_INTERNAL_H

#include "engine/scheduler.h"

struct scheduler {
    struct scheduler_config config;
    uint32_t block_tokens;
    uint64_t max_tokens;
    struct kv_list running, waiting; /* first in rank first */
    struct tenants tenants;
    uint32_t n_running, n_waiting; /* n_waiting includes those set aside */
    uint32_t n_held_up;            /* of those that wait */
    /* Requests that ceased to run; and how many they were when the plan began,
     * or one of all ended: who was set aside since finds no more room. */
    uint64_t n_left, n_left_before;
    uint64_t next_age;
    struct request **batch; /* [max_running], those of the present step */
    size_t n_batch;
    bool in_step;
    int64_t step_began_ns;
    double token_ns; /* what a token cost lately; 0: not known */
    char *text;      /* room for the longest piece */
    struct scheduler_load load;
    struct scheduler_latencies latencies;
};

static inline struct request *request_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct request, link);
}

/* ---- scheduler.c */

bool request_outranks(const struct request *a, const struct request *b);

/* Tokens of the conversation that are not in blocks; at least the last one,
 * whose logits say how to go on. */
size_t request_n_pending(const struct request *request);

uint64_t scheduler_blocks_for(
    const struct scheduler *scheduler, size_t n_tokens);

/* Blocks that a request has yet to get for its conversation and a token. */
uint64_t scheduler_blocks_missing(
    const struct scheduler *scheduler, const struct request *request);

/* A request that waits goes in; one that runs is set aside, with the blocks it
 * still has. */
void scheduler_to_running(
    struct scheduler *scheduler, struct request *request, int64_t now_ns);
void scheduler_to_waiting(
    struct scheduler *scheduler, struct request *request, int64_t now_ns);

/* The request may be gone afterwards. */
void scheduler_end_request(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns);

/* Likewise: what it needs cannot be had. Where nothing was generated the
 * session is as it was, so that the same request may come again. */
void scheduler_turn_away(struct scheduler *scheduler, struct request *request,
    enum request_end end, int64_t now_ns);

/* ---- scheduler_admission.c */

/* Lets in those of the waiting requests that may go; again in the same plan:
 * without those who would be set aside once more. */
void scheduler_admit_waiting(
    struct scheduler *scheduler, bool again, int64_t now_ns);

/* Whether the request's tenant may have what the request needs, beside what
 * runs and what is held; what others of it have computed needs no block. */
bool scheduler_fits_hard_quota(
    struct scheduler *scheduler, struct request *request, int64_t now_ns);

/* Why it gets no n blocks more: request.quota. */
void request_note_quota(struct request *request, uint64_t n);

/* ---- scheduler_room.c */

/* Blocks for the next n tokens of a running request, at the cost of others if
 * need be. false: not in this step, and the request may be gone. */
bool scheduler_make_room(struct scheduler *scheduler, struct request *request,
    size_t n, int64_t now_ns);

/* Holds up a request that is about to go in though pins and leases hold what
 * its prompt needs, before any of it is computed: it may be gone. false: it
 * need not wait for them. */
bool scheduler_hold_up_at_once(
    struct scheduler *scheduler, struct request *request, int64_t now_ns);

/* Whether no hold has ended since it looked. */
bool scheduler_is_held_up_yet(
    const struct scheduler *scheduler, const struct request *request);

/* Turns away who has waited for holds as long as is allowed. */
void scheduler_end_held_up(struct scheduler *scheduler, int64_t now_ns);

#endif
