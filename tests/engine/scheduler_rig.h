/* The inference loop without a server: a real pool, a real model, a clock of
 * its own that goes a millisecond for each motion. One rig a test; functions
 * fail the test themselves. */
#ifndef TESTS_ENGINE_SCHEDULER_RIG_H
#define TESTS_ENGINE_SCHEDULER_RIG_H

#include "engine/scheduler.h"

#define RIG_MAX_RUNNING 6
#define RIG_MAX_TOKENS 64
#define RIG_CLIENTS 6

/* One request, and what it was told. */
struct rig_client {
    struct request request; /* first */
    uint32_t tokens[RIG_MAX_TOKENS];
    struct sampler_logprobs logprobs[RIG_MAX_TOKENS];
    size_t n_tokens;
    char text[4096];
    size_t n_text;
    bool started, ended;
    enum request_end end;
};

struct rig {
    struct model *model;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct compute *compute;
    struct scheduler *scheduler;
    struct compute_slice slices[RIG_MAX_RUNNING];
    size_t n_slices;
    int64_t now_ns;
    uint64_t random;
    const char *const *prompts; /* [RIG_CLIENTS]; at first all different */
    enum kv_type kv_type;       /* at first F16 */
};

extern struct rig rig;

struct rig_config {
    uint32_t n_blocks, block_tokens, max_running, max_batch_tokens, max_waiting;
    const struct pool_observer *observer; /* NULL: nobody */
    bool share_prefixes;
    int64_t max_hold_wait_ns;
};

extern const struct rig_config rig_plain_config; /* one at a time, ample room */
extern const struct rig_config rig_tight_config; /* all at once, 12 blocks */

/* Sampling that draws on all there is. */
extern const struct sampler_params rig_seeded;

/* Long ones that begin alike, some for longer than others, one not at all. */
extern const char *const rig_alike[RIG_CLIENTS];

/* Of every test: with a heap that may fail, and gives back what it took. */
void rig_set_up(void);
void rig_tear_down(void);

void rig_open(const struct rig_config *config);
void rig_close(void);

/* Checks something with each type of keys and values. */
void rig_each_kv_type(void (*check)(void));

/* 0 to n - 1, the same in every run. */
uint64_t rig_draw(uint64_t n);

/* Of the tenant "q". */
void rig_set_quota(uint32_t soft_blocks, uint32_t hard_blocks);

/* Submits a request on a session of this name; "" is none. */
enum kv_status rig_submit(struct rig_client *client, const char *id,
    const char *text, uint32_t max_tokens);
enum kv_status rig_submit_for(const char *tenant, struct rig_client *client,
    const char *id, const char *text, uint32_t max_tokens);

/* Each prompt, on the sessions prefix0, prefix1 and so on; "" is none. */
void rig_submit_all(struct rig_client *clients, uint32_t max_tokens,
    const char *prefix, const struct sampler_params *sampling);

/* The two motions of a step; plan returns how many are in it. */
size_t rig_plan(void);
void rig_commit(void);

/* What was given up is zeroed. */
void rig_scrub(void);

/* One step; what was given up is zeroed after it. */
void rig_step(void);

/* Until all of them have ended. */
void rig_run_all(struct rig_client *clients, size_t n_clients);

/* What each prompt yields when nobody else is there; on a rig of its own. */
void rig_run_plain(struct rig_client *plain, uint32_t max_tokens,
    const struct sampler_params *sampling);

/* Evicts a session that runs, between steps, as an Evict call would. */
void rig_evict(struct rig_client *client);

/* The same tokens, log-probabilities, text and end. */
void rig_check_same(const struct rig_client *a, const struct rig_client *b);

void rig_check_pool(void);

#endif
