/* Which sequences compute next: continuous batching over the pool's sessions.
 *
 *   submit ─> waiting ──admit──> running ──┬─> ended
 *                ^                  |      │
 *                └──── set aside ───┘      └ after its last token, a cancel, a
 *                  (no block was left)       failure, or a hand-back
 *
 * Driven by the owner in two motions, with the computation between them:
 *
 *   n = scheduler_plan(...)    choose the batch, pin blocks, fill slices
 *   compute_start(slices, n)   somebody else's threads
 *   scheduler_commit(...)      take the tokens, tell the requests, end some
 *
 * Every step mixes the next token of all running sequences with chunks of
 * prompts, within a budget of tokens; a long prompt never stalls those that
 * generate. Tenants share the batch and the budget, see tenants.h; a tenant's
 * requests are served in the order of their rank.
 *
 * Requests have a rank: a higher priority comes first, and of equal ones the
 * older. When no block is left the last in rank that holds any is set aside and
 * computed again later; nobody is set aside for somebody of a lower rank, and
 * nobody waits for what one of a lower priority holds. The first in rank always
 * moves on, so everybody of a priority gets there. Where it is the quota of a
 * tenant that leaves no block, its own requests are set aside only, and one
 * that could not go on though it were alone ends. While nothing may be evicted,
 * requests end that need it, and the others go on. Who needs blocks that pins
 * and leases hold waits for these to end, for a bounded time, and lets others
 * go first.
 *
 * Thread: the owner's. Time arrives as an argument (monotonic, ns). A step
 * allocates nothing but what the pool's sessions need to grow. */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/histogram.h"
#include "base/list.h"
#include "engine/compute.h"
#include "engine/tenants.h"
#include "engine/text_stream.h"
#include "engine/tokenizer.h"
#include "pool/pool.h"

struct scheduler;
struct request;

enum request_end {
    REQUEST_GOES_ON = 0,
    REQUEST_END_OF_TEXT = 1, /* 1 to 5 as in FinishReason of the contract */
    REQUEST_STOP_STRING = 2,
    REQUEST_MAX_TOKENS = 3,
    REQUEST_CONTEXT_FULL = 4,
    REQUEST_DRAINED = 5,
    REQUEST_CANCELLED = 6,
    REQUEST_NO_MEMORY = 7,
    REQUEST_OVER_QUOTA = 8,  /* it needs more blocks than its tenant may have
                                (request.quota); what was generated stays */
    REQUEST_NO_EVICTION = 9, /* it needed one, and that may not be now (see
                                pool_may_evict); without a token generated the
                                session is as it was before */
    REQUEST_HELD_UP = 10,    /* pins and leases hold the blocks that it needs,
                                and none of them ends in time (see shortage);
                                the session as above */
    REQUEST_MODEL_LOST = 11, /* see scheduler_fail */
};

/* What a request waits for that has the pool to itself but for sessions that
 * pins and leases hold. */
struct request_shortage {
    uint64_t needed_blocks; /* for its conversation and a token */
    uint64_t held_blocks;   /* that are not its own */
    struct pool_holds holds;
};

/* What a request took; times are nanoseconds. */
struct request_usage {
    uint32_t prompt_tokens, cached_tokens, generated_tokens, recomputed_tokens;
    uint32_t preemptions;
    int64_t queue_ns, ttft_ns, decode_ns, preempted_ns, total_ns;
};

/* Blocks that a tenant has, that a request needs beside them, and the quota
 * that is less. */
struct request_quota {
    uint64_t used_blocks, needed_blocks, quota_blocks;
};

/* Called from scheduler_plan, _commit, _fail, _cancel and _hand_back. They must
 * not call the scheduler, but on_ended may free the request. */
struct request_ops {
    void (*on_started)(struct request *request);

    /* The next token, and text that may be shown (valid UTF-8, may be empty,
     * may lag behind). Borrowed. */
    void (*on_token)(struct request *request, uint32_t token, const char *text,
        size_t n_text);

    /* Text that was held back, if any, then the end. The session has been
     * ended; a request without a session has none any more. */
    void (*on_ended)(struct request *request, enum request_end end,
        const char *text, size_t n_text);
};

/* The caller's memory, from submit to on_ended. The first part is filled in by
 * the caller, the rest is the scheduler's; usage may be read at any time. */
struct request {
    const struct request_ops *ops;
    struct pool_session *session; /* idle */
    uint32_t priority;            /* 100 goes first, 0 last */
    uint32_t max_tokens;          /* at least 1 */
    bool prefills_only;           /* ends where its first token would come */
    uint32_t n_dropped; /* tokens at the end of the conversation, at most all,
                           that the input comes in place of */
    struct sampler_params sampling; /* its biases borrowed until on_ended */
    bool wants_logprobs;
    uint32_t n_top_logprobs;  /* at most SAMPLER_MAX_TOP */
    bool ignores_end;         /* goes on after an end-of-text token */
    const char *const *stops; /* borrowed until on_ended */
    size_t n_stops;
    uint8_t trace_id[16];
    bool has_trace_id;

    struct request_usage usage;
    struct request_quota quota;       /* KV_OVER_QUOTA, REQUEST_OVER_QUOTA */
    struct sampler_logprobs logprobs; /* of the token that on_token brings */
    struct kv_list link;
    uint64_t age; /* number of its submission: smaller is older */
    struct tenant *tenant;
    struct tenant_turn turn; /* while it waits */
    struct text_stream text;
    bool started, running, in_step, set_aside;
    enum request_end ends_with_step;
    uint32_t *dropped;    /* [n_dropped], to be put back where it is refused */
    bool is_held_up;      /* waits for a hold to end */
    int64_t held_up_ns;   /* since when; 0: it had what it needed */
    uint64_t n_hold_ends; /* of the pool when it last looked */
    struct request_shortage shortage;
    size_t n_known;   /* tokens in blocks when it was last looked at */
    uint32_t n_slice; /* tokens of the present step */
    int64_t accepted_ns, first_token_ns, last_token_ns, set_aside_ns;
    uint64_t nth_left; /* among all that were set aside or ended */
};

struct scheduler_config {
    struct pool *pool; /* all borrowed */
    const struct tokenizer *tokenizer;
    uint32_t n_context; /* tokens of a conversation at most */
    uint32_t max_running, max_waiting;
    uint32_t max_batch_tokens;
    int64_t max_step_ns;
    int64_t max_hold_wait_ns; /* for pins and leases to end; 0: not at all */
};

enum kv_status scheduler_open(struct scheduler **out,
    const struct scheduler_config *config, struct kv_error *error);

/* Without requests. NULL is fine. */
void scheduler_close(struct scheduler *scheduler);

/* Tokens that a conversation can have: the context, or what the pool holds. */
uint64_t scheduler_max_tokens(const struct scheduler *scheduler);

/* Begins the request's session, adds the input to its conversation, or puts it
 * in place of the end that the request drops, and queues it. The conversation
 * must fit scheduler_max_tokens with one token to spare. Of what is dropped the
 * blocks stay as far as the input begins alike.
 *   KV_BUSY       another request has the session; nothing has changed
 *   KV_LIMIT      max_waiting requests wait already
 *   KV_OVER_QUOTA the conversation needs more blocks than the hard quota of its
 *                 tenant leaves beside what runs and what is held
 *   KV_NO_MEMORY
 * After the last three the session has been ended, with the conversation that
 * it had: a request without a session has none any more, nor has one whose
 * session had no tokens. After the last two the blocks of what was to be
 * dropped may be gone. */
enum kv_status scheduler_submit(struct scheduler *scheduler,
    struct request *request, const uint32_t *tokens, size_t n_tokens,
    int64_t now_ns);

/* Ends the request now, or with the present step. */
void scheduler_cancel(
    struct scheduler *scheduler, struct request *request, int64_t now_ns);

/* Ends all requests with REQUEST_DRAINED, now or with the present step, whose
 * token they still get. */
void scheduler_hand_back(struct scheduler *scheduler, int64_t now_ns);

/* The next batch, in slices[max_running]: returns how many, 0 if there is
 * nothing to compute at present. Not while a step is under way. */
size_t scheduler_plan(
    struct scheduler *scheduler, struct compute_slice *slices, int64_t now_ns);

/* When scheduler_plan has something to do though nothing else happens;
 * INT64_MAX if never. */
int64_t scheduler_next_deadline(const struct scheduler *scheduler);

/* The batch of the last plan has been computed. */
void scheduler_commit(struct scheduler *scheduler,
    const struct compute_slice *slices, size_t n_slices, int64_t now_ns);

/* The same where nothing that was computed can be trusted, nor will be: ends
 * all requests with REQUEST_MODEL_LOST, and takes nothing of the step. Or,
 * while there is no step, without one. */
void scheduler_fail(struct scheduler *scheduler, int64_t now_ns);

/* Whether a plan has not been committed yet: workers touch its blocks. */
bool scheduler_in_step(const struct scheduler *scheduler);

struct scheduler_load {
    uint32_t running, waiting, set_aside; /* set_aside are not in waiting */
    /* Prompts are conversations with their input; cached is a part of them. */
    uint64_t steps, prompt_tokens, cached_tokens, generated_tokens;
    uint64_t recomputed_tokens, preemptions;
};
struct scheduler_load scheduler_load(const struct scheduler *scheduler);

/* Since open: from acceptance to the first step, and to the first token; and
 * from each token of a request to its next, pauses included. Borrowed. */
struct scheduler_latencies {
    struct kv_histogram queue_wait, first_token, next_token;
};
const struct scheduler_latencies *scheduler_latencies(
    const struct scheduler *scheduler);

#endif
