/* The inference loop without a server: a real pool, a real model, a clock of
 * its own. Whatever happens to a sequence, its tokens are those of a quiet run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "engine/scheduler.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define MAX_RUNNING 6
#define MAX_TOKENS 64
#define N_CLIENTS 6

/* One request, and what it was told. */
struct client {
    struct request request; /* first */
    uint32_t tokens[MAX_TOKENS];
    struct sampler_logprobs logprobs[MAX_TOKENS];
    size_t n_tokens;
    char text[4096];
    size_t n_text;
    bool started, ended;
    enum request_end end;
};

static struct {
    struct model *model;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct compute *compute;
    struct scheduler *scheduler;
    struct compute_slice slices[MAX_RUNNING];
    size_t n_slices;
    int64_t now_ns;
    uint64_t random;
} rig;

struct rig_config {
    uint32_t n_blocks, block_tokens, max_running, max_batch_tokens, max_waiting;
    const struct pool_observer *observer; /* NULL: nobody */
    bool share_prefixes;
    int64_t max_hold_wait_ns;
};

static const struct rig_config plain_config = {
    .n_blocks = 64,
    .block_tokens = 8,
    .max_running = 1,
    .max_batch_tokens = 128,
    .max_waiting = 16,
};

static void rig_open(const struct rig_config *config)
{
    const enum kv_type kv_type = KV_TYPE_F16;
    struct kv_error error;
    struct pool_config pool = {
        .observer = config->observer,
        .n_blocks = config->n_blocks,
        .block_tokens = config->block_tokens,
        .max_sessions = 16,
        .max_kept_tokens = 100000,
        .share_prefixes = config->share_prefixes,
    };
    struct compute_config compute = {
        .block_tokens = config->block_tokens,
        .kv_type = kv_type,
        .n_threads = 1,
        .max_batch_tokens = config->max_batch_tokens,
        .max_slices = config->max_running,
        .kernels = "auto",
    };
    struct scheduler_config scheduler = {
        .max_running = config->max_running,
        .max_waiting = config->max_waiting,
        .max_batch_tokens = config->max_batch_tokens,
        .max_step_ns = KV_NS_PER_S,
        .max_hold_wait_ns = config->max_hold_wait_ns,
    };

    ck_assert_int_eq(model_open(&rig.model, ENGINE_DEMO, &error), KV_OK);
    ck_assert_int_eq(tokenizer_open(&rig.tokenizer, rig.model->gguf,
                         rig.model->shape.n_vocab, &error),
        KV_OK);
    pool.block_bytes =
        kv_block_bytes(&rig.model->shape, kv_type, config->block_tokens);
    ck_assert_int_eq(pool_open(&rig.pool, &pool, 0, &error), KV_OK);
    compute.model = rig.model;
    compute.arena = pool_arena(rig.pool);
    compute.block_bytes = pool.block_bytes;
    ck_assert_int_eq(compute_open(&rig.compute, &compute, &error), KV_OK);
    scheduler.pool = rig.pool;
    scheduler.tokenizer = rig.tokenizer;
    scheduler.n_context = rig.model->shape.n_context;
    ck_assert_int_eq(scheduler_open(&rig.scheduler, &scheduler, &error), KV_OK);
    rig.now_ns = 0;
    rig.random = 88172645463325252u;
}

static void rig_close(void)
{
    scheduler_close(rig.scheduler);
    compute_close(rig.compute);
    pool_close(rig.pool);
    tokenizer_close(rig.tokenizer);
    model_close(rig.model);
}

static uint64_t draw(uint64_t n)
{
    rig.random ^= rig.random << 13;
    rig.random ^= rig.random >> 7;
    rig.random ^= rig.random << 17;
    return rig.random % n;
}

/* ---- clients */

static void on_started(struct request *request)
{
    struct client *client = (struct client *)(void *)request;

    ck_assert(!client->started);
    client->started = true;
}

static void add_text(struct client *client, const char *text, size_t n)
{
    ck_assert_uint_lt(client->n_text + n, sizeof client->text);
    if (n > 0)
        memcpy(client->text + client->n_text, text, n);
    client->n_text += n;
}

static void on_token(
    struct request *request, uint32_t token, const char *text, size_t n_text)
{
    struct client *client = (struct client *)(void *)request;

    ck_assert(client->started && !client->ended);
    ck_assert_uint_lt(client->n_tokens, MAX_TOKENS);
    client->logprobs[client->n_tokens] = request->logprobs;
    client->tokens[client->n_tokens++] = token;
    add_text(client, text, n_text);
}

static void on_ended(struct request *request, enum request_end end,
    const char *text, size_t n_text)
{
    struct client *client = (struct client *)(void *)request;

    ck_assert(!client->ended);
    add_text(client, text, n_text);
    client->ended = true;
    client->end = end;
}

static const struct request_ops ops = {
    .on_started = on_started, .on_token = on_token, .on_ended = on_ended};

static const char *const different[N_CLIENTS] = {
    "Once upon a time there was a dog",
    "What is the sun?",
    "A cat sat",
    "One two three four five six seven eight nine ten eleven twelve",
    "The king and the queen went to the sea and saw a ship",
    "Why?",
};

/* Long ones that begin alike, some for longer than others, one not at all. */
#define BEGINNING "Once upon a time there was a dog who went to the sea and "
static const char *const alike[N_CLIENTS] = {
    BEGINNING "saw a ship",
    BEGINNING "saw a cat and the queen",
    BEGINNING "saw a cat and the king",
    BEGINNING,
    "One two three four five six seven eight nine ten eleven twelve",
    BEGINNING "saw a ship",
};

static const char *const *prompts = different;

/* Submits a request on a session of this name; "" is none. */
static enum kv_status submit_for(const char *tenant, struct client *client,
    const char *id, const char *text, uint32_t max_tokens)
{
    const struct pool_key key = {.tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id)};
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    bool created;
    enum kv_status status;

    if (key.id_bytes == 0)
        status = pool_session_anonymous(rig.pool, tenant, key.tenant_bytes,
            NULL, rig.now_ns, &client->request.session);
    else
        status = pool_session_get(rig.pool, &key, NULL, rig.now_ns,
            &client->request.session, &created);
    ck_assert_int_eq(status, KV_OK);
    if (text[0] != '\0')
        ck_assert_int_eq(tokenizer_encode(rig.tokenizer, text, strlen(text),
                             true, &ids, &n_ids),
            KV_OK);
    client->request.ops = &ops;
    client->request.max_tokens = max_tokens;
    client->request.wants_logprobs = true;
    client->request.n_top_logprobs = 3;
    status = scheduler_submit(
        rig.scheduler, &client->request, ids, n_ids, rig.now_ns);
    kv_free(ids);
    return status;
}

static enum kv_status submit(struct client *client, const char *id,
    const char *text, uint32_t max_tokens)
{
    return submit_for("", client, id, text, max_tokens);
}

/* ---- the loop */

static void scrub(void)
{
    struct pool_scrub job;

    while (pool_scrub_next(rig.pool, &job)) {
        for (size_t i = 0; i < job.n_extents; i++)
            memset(pool_arena(rig.pool) + job.extents[i].offset, 0,
                job.extents[i].size);
        pool_scrub_done(rig.pool, job.scrub_id, rig.now_ns);
    }
}

static size_t plan(void)
{
    rig.now_ns += KV_NS_PER_MS;
    rig.n_slices = scheduler_plan(rig.scheduler, rig.slices, rig.now_ns);
    return rig.n_slices;
}

static void commit(void)
{
    rig.now_ns += KV_NS_PER_MS;
    scheduler_commit(rig.scheduler, rig.slices, rig.n_slices, rig.now_ns);
}

/* One step; what was given up is zeroed after it. */
static void step(void)
{
    if (plan() > 0) {
        compute_run(rig.compute, rig.slices, rig.n_slices);
        commit();
    }
    scrub();
}

static void run_all(struct client *clients, size_t n_clients)
{
    for (size_t i = 0; i < n_clients; i++)
        for (int n_steps = 0; !clients[i].ended; n_steps++) {
            ck_assert_int_lt(n_steps, 5000);
            step();
        }
}

/* What each prompt yields when nobody else is there. */
static void run_plain(struct client *plain, uint32_t max_tokens,
    const struct sampler_params *sampling)
{
    rig_open(&plain_config);
    for (int i = 0; i < N_CLIENTS; i++) {
        if (sampling != NULL)
            plain[i].request.sampling = *sampling;
        ck_assert_int_eq(submit(&plain[i], "", prompts[i], max_tokens), KV_OK);
        run_all(&plain[i], 1);
    }
    rig_close();
}

static void check_same(const struct client *a, const struct client *b)
{
    ck_assert_uint_eq(a->n_tokens, b->n_tokens);
    ck_assert_mem_eq(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens);
    for (size_t i = 0; i < a->n_tokens; i++) {
        ck_assert_float_eq(a->logprobs[i].chosen, b->logprobs[i].chosen);
        ck_assert_uint_eq(a->logprobs[i].n_top, 3);
        ck_assert_mem_eq(a->logprobs[i].top, b->logprobs[i].top,
            3 * sizeof *a->logprobs[i].top);
    }
    ck_assert_uint_eq(a->n_text, b->n_text);
    ck_assert_mem_eq(a->text, b->text, a->n_text);
    ck_assert_int_eq(a->end, b->end);
}

static void check_pool(void)
{
    struct kv_error error;

    ck_assert_msg(pool_check(rig.pool, &error), "%s", error.text);
}

static void submit_all(struct client *clients, uint32_t max_tokens,
    const char *prefix, const struct sampler_params *sampling)
{
    char id[16];

    for (int i = 0; i < N_CLIENTS; i++) {
        snprintf(id, sizeof id, "%s%d", prefix, i);
        if (sampling != NULL)
            clients[i].request.sampling = *sampling;
        ck_assert_int_eq(submit(&clients[i], prefix[0] == '\0' ? "" : id,
                             prompts[i], max_tokens),
            KV_OK);
    }
}

/* ---- the same tokens whatever happens */

static const struct sampler_bias biases[] = {{400, 3}, {401, -100}};

static const struct sampler_params seeded = {
    .temperature = 0.9f,
    .top_k = 40,
    .top_p = 0.95f,
    .min_p = 0.01f,
    .repetition_penalty = 1.1f,
    .frequency_penalty = 0.3f,
    .presence_penalty = 0.2f,
    .penalty_window = 20,
    .biases = biases,
    .n_biases = 2,
    .seed = 7,
};

START_TEST(batched_and_chunked_sequences_yield_what_plain_ones_do)
{
    static const uint32_t batch_tokens[] = {1, 2, 3, 7, 16, 128};
    struct client plain[N_CLIENTS] = {0};

    run_plain(plain, 10, &seeded);
    for (size_t i = 0; i < sizeof batch_tokens / sizeof *batch_tokens; i++) {
        struct client clients[N_CLIENTS] = {0};
        struct rig_config config = plain_config;

        config.max_batch_tokens = batch_tokens[i];
        config.max_running =
            batch_tokens[i] < MAX_RUNNING ? batch_tokens[i] : MAX_RUNNING;
        rig_open(&config);
        submit_all(clients, 10, "", &seeded);
        run_all(clients, N_CLIENTS);
        for (int j = 0; j < N_CLIENTS; j++)
            check_same(&plain[j], &clients[j]);
        ck_assert_uint_eq(pool_stats(rig.pool).used_bytes, 0);
        check_pool();
        rig_close();
    }
}
END_TEST

/* Evicts a session that runs, between steps, as an Evict call would. */
static void evict(struct client *client)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "test"};
    struct pool_batch_scope scope = pool_batch_begin(rig.pool, rig.now_ns);

    pool_evict_session(
        rig.pool, client->request.session, &cause, true, rig.now_ns);
    pool_batch_end(rig.pool, &scope, &cause, rig.now_ns);
}

START_TEST(sequences_evicted_at_random_yield_what_plain_ones_do)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    struct rig_config config = plain_config;
    uint64_t n_preempted = 0;

    config.max_running = MAX_RUNNING;
    config.max_batch_tokens = 24;
    run_plain(plain, 16, &seeded);
    rig_open(&config);
    submit_all(clients, 16, "s", &seeded);
    for (int i = 0; i < N_CLIENTS; i++)
        while (!clients[i].ended) {
            int victim = (int)draw(N_CLIENTS);

            if (!clients[victim].ended && draw(3) > 0)
                evict(&clients[victim]);
            step();
            check_pool();
        }
    for (int i = 0; i < N_CLIENTS; i++) {
        check_same(&plain[i], &clients[i]);
        n_preempted += clients[i].request.usage.preemptions;
    }
    ck_assert_uint_gt(n_preempted, 3);
    ck_assert_uint_gt(scheduler_load(rig.scheduler).recomputed_tokens, 0);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).preemptions, n_preempted);
    rig_close();
}
END_TEST

/* The pool holds the longest of them and hardly more. */
START_TEST(sequences_short_of_blocks_yield_what_plain_ones_do)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    const struct rig_config config = {
        .n_blocks = 10,
        .block_tokens = 4,
        .max_running = MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
    };

    run_plain(plain, 16, NULL);
    rig_open(&config);
    submit_all(clients, 16, "s", NULL);
    run_all(clients, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++)
        check_same(&plain[i], &clients[i]);
    /* The oldest is nobody's victim. */
    ck_assert_uint_eq(clients[0].request.usage.preemptions, 0);
    ck_assert_uint_gt(
        pool_totals(rig.pool).evictions_by_reason[POOL_REASON_PRESSURE] +
            pool_totals(rig.pool).evictions_by_reason[POOL_REASON_LRU],
        0);
    check_pool();
    rig_close();
}
END_TEST

static size_t session_tokens(const char *prefix, int i)
{
    struct pool_session *session;
    char id[16];
    struct pool_key key = {.tenant = "", .id = id};

    key.id_bytes = (size_t)snprintf(id, sizeof id, "%s%d", prefix, i);
    session = pool_session_find(rig.pool, &key);
    return session == NULL ? 0 : pool_session_info(rig.pool, session).n_tokens;
}

static bool never(void *ctx)
{
    (void)ctx;
    return false;
}

/* Those that need what another holds, in the batch or idle, end; those that do
 * with free blocks go on, and yield what they would. */
START_TEST(while_nothing_may_be_evicted_requests_end_that_need_it)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    const struct pool_observer observer = {.may_evict = never};
    const struct rig_config config = {
        .n_blocks = 12,
        .block_tokens = 4,
        .max_running = MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
        .observer = &observer,
    };
    int n_refused = 0;

    run_plain(plain, 16, NULL);
    rig_open(&config);
    submit_all(clients, 16, "s", NULL);
    run_all(clients, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++) {
        n_refused += clients[i].end == REQUEST_NO_EVICTION;
        if (clients[i].end != REQUEST_NO_EVICTION)
            check_same(&plain[i], &clients[i]);
        else if (clients[i].n_tokens == 0)
            ck_assert_uint_eq(session_tokens("s", i), 0);
    }
    ck_assert_int_gt(n_refused, 0);
    ck_assert_int_lt(n_refused, N_CLIENTS);
    ck_assert_uint_eq(pool_stats(rig.pool).evictions, 0);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(what_does_not_fit_together_is_not_let_in_together)
{
    struct client clients[N_CLIENTS] = {0};
    const struct rig_config config = {
        .n_blocks = 8,
        .block_tokens = 4,
        .max_running = MAX_RUNNING,
        .max_batch_tokens = 64,
        .max_waiting = 16,
    };

    rig_open(&config);
    submit_all(clients, 1, "s", NULL);
    run_all(clients, N_CLIENTS);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).preemptions, 0);
    rig_close();
}
END_TEST

START_TEST(a_session_continued_yields_what_one_call_does)
{
    struct client whole = {0}, parts[4] = {0};
    uint32_t tokens[MAX_TOKENS];
    size_t n = 0;

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&whole, "whole", prompts[0], 8), KV_OK);
    run_all(&whole, 1);
    ck_assert_uint_eq(whole.n_tokens, 8);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(
            submit(&parts[i], "parts", i == 0 ? prompts[0] : "", 2), KV_OK);
        if (i == 2) /* its cache goes, its tokens stay */
            evict(&parts[i]);
        run_all(&parts[i], 1);
        memcpy(tokens + n, parts[i].tokens, 2 * sizeof *tokens);
        n += parts[i].n_tokens;
    }
    ck_assert_mem_eq(tokens, whole.tokens, 8 * sizeof *tokens);
    ck_assert_uint_eq(parts[1].request.usage.recomputed_tokens, 0);
    ck_assert_uint_eq(parts[1].request.usage.prompt_tokens, 0);
    ck_assert_uint_gt(parts[1].request.usage.cached_tokens, 2);
    ck_assert_uint_eq(parts[2].request.usage.cached_tokens, 0);
    ck_assert_uint_gt(parts[2].request.usage.recomputed_tokens, 2);
    rig_close();
}
END_TEST

START_TEST(a_last_token_computed_again_for_its_logits_is_no_recomputation)
{
    struct client first = {0}, second = {0};

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&first, "a", prompts[0], 4), KV_OK);
    ck_assert_uint_eq(plan(), 1);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &first.request, rig.now_ns);
    commit();
    ck_assert_int_eq(first.end, REQUEST_CANCELLED);
    /* All of it lies in blocks now, and none of it says how to go on. */
    ck_assert_int_eq(submit(&second, "a", "", 4), KV_OK);
    run_all(&second, 1);
    ck_assert_uint_eq(second.n_tokens, 4);
    ck_assert_uint_eq(second.request.usage.recomputed_tokens, 0);
    rig_close();
}
END_TEST

/* ---- ends */

START_TEST(a_cancelled_request_ends_at_once_or_with_its_step)
{
    struct client waiting = {0}, running = {0};

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&running, "a", prompts[0], 8), KV_OK);
    ck_assert_int_eq(submit(&waiting, "b", prompts[1], 8), KV_OK);
    ck_assert_uint_eq(plan(), 1);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &waiting.request, rig.now_ns);
    ck_assert(waiting.ended && waiting.end == REQUEST_CANCELLED);
    scheduler_cancel(rig.scheduler, &running.request, rig.now_ns);
    scheduler_cancel(rig.scheduler, &running.request, rig.now_ns);
    ck_assert(!running.ended);
    commit();
    ck_assert(running.ended && running.end == REQUEST_CANCELLED);
    ck_assert_uint_eq(running.n_tokens, 0);
    ck_assert_uint_eq(scheduler_load(rig.scheduler).running, 0);
    ck_assert_uint_eq(plan(), 0);
    rig_close();
}
END_TEST

START_TEST(all_that_is_handed_back_ends_drained_within_the_step)
{
    struct client clients[4] = {0};
    struct rig_config config = plain_config;

    config.max_running = 3;
    config.max_batch_tokens = 16;
    rig_open(&config);
    ck_assert_int_eq(submit(&clients[0], "a", prompts[2], 32), KV_OK);
    step();
    ck_assert_uint_eq(clients[0].n_tokens, 1);
    /* A prompt that needs several steps, one cancelled, one that waits. */
    ck_assert_int_eq(submit(&clients[1], "b", prompts[3], 32), KV_OK);
    ck_assert_int_eq(submit(&clients[2], "c", prompts[5], 32), KV_OK);
    ck_assert_int_eq(submit(&clients[3], "d", prompts[1], 32), KV_OK);
    ck_assert_uint_ge(plan(), 2);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    scheduler_cancel(rig.scheduler, &clients[2].request, rig.now_ns);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    ck_assert(clients[3].ended);
    commit();
    ck_assert_uint_eq(clients[0].n_tokens, 2);
    for (int i = 0; i < 4; i++) {
        ck_assert(clients[i].ended);
        ck_assert_int_eq(
            clients[i].end, i == 2 ? REQUEST_CANCELLED : REQUEST_DRAINED);
    }
    ck_assert_uint_eq(plan(), 0);
    rig_close();
}
END_TEST

START_TEST(a_full_context_and_a_full_queue_are_said)
{
    struct client clients[4] = {0};
    const struct rig_config config = {
        .n_blocks = 3,
        .block_tokens = 8,
        .max_running = 1,
        .max_batch_tokens = 64,
        .max_waiting = 2,
    };

    rig_open(&config);
    ck_assert_uint_eq(scheduler_max_tokens(rig.scheduler), 24);
    ck_assert_int_eq(submit(&clients[0], "a", prompts[1], 60), KV_OK);
    step();
    ck_assert_int_eq(submit(&clients[1], "b", "b", 1), KV_OK);
    ck_assert_int_eq(submit(&clients[2], "c", "c", 1), KV_OK);
    ck_assert_int_eq(submit(&clients[3], "d", "d", 1), KV_LIMIT);
    ck_assert_int_eq(submit(&clients[3], "b", "d", 1), KV_BUSY);
    run_all(clients, 3);
    ck_assert_int_eq(clients[0].end, REQUEST_CONTEXT_FULL);
    ck_assert_uint_eq(clients[0].request.usage.prompt_tokens +
                          clients[0].request.usage.generated_tokens,
        24);
    rig_close();
}
END_TEST

START_TEST(who_is_set_aside_does_not_count_as_waiting)
{
    struct client clients[3] = {0};
    struct rig_config config = plain_config;

    config.max_running = 2;
    config.max_waiting = 1;
    rig_open(&config);
    ck_assert_int_eq(submit(&clients[0], "a", prompts[0], 8), KV_OK);
    step();
    evict(&clients[0]);
    ck_assert_int_eq(submit(&clients[1], "b", prompts[1], 8), KV_OK);
    step();
    evict(&clients[0]);
    evict(&clients[1]);
    ck_assert_int_eq(submit(&clients[2], "c", prompts[2], 8), KV_OK);
    run_all(clients, 3);
    rig_close();
}
END_TEST

/* A pool that is held but for less blocks than the longest prompt needs. */
static size_t open_held(int64_t hold_ns)
{
    struct rig_config config = plain_config;
    struct client holder = {0};
    struct pool_session *session;
    uint32_t *ids;
    size_t n_ids, n_held;

    rig_open(&config);
    ck_assert_int_eq(tokenizer_encode(rig.tokenizer, prompts[3],
                         strlen(prompts[3]), true, &ids, &n_ids),
        KV_OK);
    kv_free(ids);
    rig_close();

    config.n_blocks = 2 * (uint32_t)((n_ids + 7) / 8) - 1;
    config.max_running = 2;
    config.max_hold_wait_ns = KV_NS_PER_S;
    rig_open(&config);
    ck_assert_int_eq(submit(&holder, "held", prompts[3], 1), KV_OK);
    run_all(&holder, 1);
    session = pool_session_find(
        rig.pool, &(struct pool_key){.id = "held", .id_bytes = 4});
    ck_assert_ptr_nonnull(session);
    pool_session_pin(rig.pool, session, hold_ns, rig.now_ns);
    pool_session_blocks(session, &n_held);
    return n_held;
}

START_TEST(a_request_fails_where_holds_never_end_in_time)
{
    struct client needy = {0}, small = {0};
    size_t n_held = open_held(KV_NS_PER_S * 1000);
    const struct request_shortage *shortage = &needy.request.shortage;

    ck_assert_int_eq(submit(&needy, "needy", prompts[3], 1), KV_OK);
    ck_assert_int_eq(submit(&small, "", prompts[5], 1), KV_OK);
    run_all(&needy, 1);
    ck_assert_int_eq(needy.end, REQUEST_HELD_UP);
    ck_assert(!needy.started);
    ck_assert_uint_eq(shortage->held_blocks, n_held);
    ck_assert_uint_eq(shortage->holds.n_sessions, 1);
    ck_assert_int_gt(shortage->holds.first_end_ns, KV_NS_PER_S * 999);
    ck_assert_uint_gt(
        shortage->needed_blocks + n_held, pool_config(rig.pool)->n_blocks);
    ck_assert_uint_eq(pool_totals(rig.pool).evictions_by_reason[5], 0);
    run_all(&small, 1);
    ck_assert_int_eq(small.end, REQUEST_MAX_TOKENS);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(a_request_waits_for_a_hold_that_ends_in_time_and_others_go_first)
{
    struct client needy = {0}, small = {0};

    open_held(KV_NS_PER_S / 2);
    ck_assert_int_eq(submit(&needy, "needy", prompts[3], 1), KV_OK);
    step();
    ck_assert(!needy.ended);
    ck_assert_int_lt(scheduler_next_deadline(rig.scheduler), 2 * KV_NS_PER_S);
    ck_assert_int_eq(submit(&small, "", prompts[5], 1), KV_OK);
    run_all(&small, 1);
    ck_assert_int_eq(small.end, REQUEST_MAX_TOKENS);
    ck_assert(!needy.ended);

    rig.now_ns += KV_NS_PER_S / 2;
    pool_expire(rig.pool, rig.now_ns, 8);
    run_all(&needy, 1);
    ck_assert_int_eq(needy.end, REQUEST_MAX_TOKENS);
    ck_assert_int_eq(scheduler_next_deadline(rig.scheduler), INT64_MAX);
    check_pool();
    rig_close();
}
END_TEST

/* What ends is held anew before anybody can have it. */
START_TEST(a_request_waits_for_no_longer_than_it_may)
{
    struct client needy = {0};
    struct pool_session *session;

    open_held(KV_NS_PER_S / 2);
    ck_assert_int_eq(submit(&needy, "needy", prompts[3], 1), KV_OK);
    step();
    session = pool_session_find(
        rig.pool, &(struct pool_key){.id = "held", .id_bytes = 4});
    pool_session_pin(rig.pool, session, 100 * KV_NS_PER_S, rig.now_ns);
    step();
    ck_assert(!needy.ended);
    rig.now_ns = scheduler_next_deadline(rig.scheduler);
    step();
    ck_assert_int_eq(needy.end, REQUEST_HELD_UP);
    rig_close();
}
END_TEST

/* A stop string ends the text before it, wherever it falls among the tokens. */
START_TEST(a_stop_string_is_no_part_of_the_text)
{
    struct client plain = {0};

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&plain, "", prompts[0], 24), KV_OK);
    run_all(&plain, 1);
    ck_assert_uint_gt(plain.n_text, 12);
    for (size_t at = 1; at + 4 < plain.n_text; at += 3) {
        char stop[5] = "";
        const char *stops[] = {"\x01never", stop};
        struct client client = {0};
        size_t first;

        memcpy(stop, plain.text + at, 4);
        first = (size_t)(strstr(plain.text, stop) - plain.text);
        client.request.stops = stops;
        client.request.n_stops = 2;
        ck_assert_int_eq(submit(&client, "", prompts[0], 24), KV_OK);
        run_all(&client, 1);
        ck_assert_int_eq(client.end, REQUEST_STOP_STRING);
        ck_assert_int_eq(client.request.text.stopped_by, 1);
        ck_assert_uint_eq(client.n_text, first);
        ck_assert_mem_eq(client.text, plain.text, first);
    }
    rig_close();
}
END_TEST

START_TEST(an_end_of_text_that_is_ignored_is_a_token_like_others)
{
    struct client plain = {0}, longer = {0};

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&plain, "", prompts[1], MAX_TOKENS), KV_OK);
    run_all(&plain, 1);
    ck_assert_int_eq(plain.end, REQUEST_END_OF_TEXT);
    longer.request.ignores_end = true;
    ck_assert_int_eq(submit(&longer, "", prompts[1], MAX_TOKENS), KV_OK);
    run_all(&longer, 1);
    ck_assert_int_eq(longer.end, REQUEST_MAX_TOKENS);
    ck_assert_uint_eq(longer.n_tokens, MAX_TOKENS);
    ck_assert_mem_eq(
        plain.tokens, longer.tokens, plain.n_tokens * sizeof *plain.tokens);
    rig_close();
}
END_TEST

START_TEST(latencies_are_of_first_steps_and_tokens)
{
    const struct scheduler_latencies *latencies;
    struct client clients[2] = {0};

    rig_open(&plain_config);
    latencies = scheduler_latencies(rig.scheduler);
    ck_assert_int_eq(submit(&clients[0], "a", prompts[0], 6), KV_OK);
    ck_assert_int_eq(submit(&clients[1], "b", prompts[1], 4), KV_OK);
    scheduler_cancel(rig.scheduler, &clients[1].request, rig.now_ns);
    run_all(clients, 1);
    ck_assert_uint_eq(latencies->queue_wait.count, 1);
    ck_assert_uint_eq(latencies->first_token.count, 1);
    ck_assert_int_eq(
        latencies->first_token.sum_ns, clients[0].request.usage.ttft_ns);
    ck_assert_uint_eq(latencies->next_token.count, 5);
    ck_assert_int_eq(
        latencies->next_token.sum_ns, clients[0].request.usage.decode_ns);
    /* The clock of this test goes a millisecond for each motion. */
    ck_assert_uint_eq(latencies->next_token.counts[4], 5);
    ck_assert_int_eq(latencies->queue_wait.sum_ns, KV_NS_PER_MS);
    rig_close();
}
END_TEST

/* ---- tenants */

/* One has eight requests there before another comes with its one. */
START_TEST(a_tenant_with_many_requests_does_not_hold_back_anothers)
{
    struct client many[8] = {0}, one = {0};
    struct rig_config config = plain_config;
    int n_ended = 0;

    config.max_running = 2;
    rig_open(&config);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(
            submit_for("many", &many[i], "", prompts[i % N_CLIENTS], 6), KV_OK);
    step();
    ck_assert(many[0].started && many[1].started);
    ck_assert_int_eq(submit_for("one", &one, "", prompts[2], 6), KV_OK);
    while (!one.ended)
        step();
    for (int i = 0; i < 8; i++)
        n_ended += many[i].ended;
    /* It waited for a place, and for nobody who came before it. */
    ck_assert_int_le(n_ended, 3);
    run_all(many, 8);
    for (int i = 1; i < 8; i++) /* among themselves they go by age */
        ck_assert_int_ge(
            many[i].request.usage.queue_ns, many[i - 1].request.usage.queue_ns);
    rig_close();
}
END_TEST

START_TEST(tenants_share_what_prompts_may_take_of_a_step)
{
    struct client a[3] = {0}, b = {0};
    struct rig_config config = plain_config;

    config.max_running = MAX_RUNNING;
    config.max_batch_tokens = 12;
    rig_open(&config);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(submit_for("a", &a[i], "", alike[i], 4), KV_OK);
    ck_assert_int_eq(submit_for("b", &b, "", alike[3], 4), KV_OK);
    ck_assert_uint_eq(plan(), 2);
    ck_assert_uint_eq(a[0].request.n_slice, 6);
    ck_assert_uint_eq(b.request.n_slice, 6);
    compute_run(rig.compute, rig.slices, rig.n_slices);
    commit();
    run_all(a, 3);
    run_all(&b, 1);
    rig_close();
}
END_TEST

START_TEST(sequences_of_many_tenants_short_of_blocks_yield_what_plain_ones_do)
{
    static const char *const names[] = {"a", "b", "c"};
    struct client plain[N_CLIENTS] = {0};

    run_plain(plain, 16, &seeded);
    for (uint32_t round = 0; round < 12; round++) {
        struct client clients[N_CLIENTS] = {0};
        const struct rig_config config = {
            .n_blocks = 10 + round,
            .block_tokens = 4,
            .max_running = 1 + round % MAX_RUNNING,
            .max_batch_tokens = 6 + round,
            .max_waiting = 16,
        };

        rig_open(&config);
        rig.random += round;
        for (int i = 0; i < N_CLIENTS; i++) {
            char id[8];

            snprintf(id, sizeof id, "s%d", i);
            clients[i].request.sampling = seeded;
            ck_assert_int_eq(submit_for(names[draw(3)], &clients[i],
                                 draw(2) == 0 ? "" : id, prompts[i], 16),
                KV_OK);
        }
        run_all(clients, N_CLIENTS);
        for (int i = 0; i < N_CLIENTS; i++)
            check_same(&plain[i], &clients[i]);
        check_pool();
        rig_close();
    }
}
END_TEST

START_TEST(a_submit_without_memory_leaves_the_session_as_it_was)
{
    struct client client = {0};
    enum kv_status status = KV_NO_MEMORY;

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&client, "kept", prompts[0], 1), KV_OK);
    run_all(&client, 1);
    for (int nth = 0; status == KV_NO_MEMORY; nth++) {
        const size_t n_tokens =
            pool_session_info(rig.pool, client.request.session).n_tokens;
        const uint32_t input[40] = {5};

        client = (struct client){.request = client.request};
        faulty_heap_fail_at(nth);
        status = scheduler_submit(
            rig.scheduler, &client.request, input, 40, rig.now_ns);
        faulty_heap_fail_at(-1);
        ck_assert_int_lt(nth, 20);
        if (status == KV_NO_MEMORY)
            ck_assert_uint_eq(
                pool_session_info(rig.pool, client.request.session).n_tokens,
                n_tokens);
    }
    ck_assert_int_eq(status, KV_OK);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    rig_close();
}
END_TEST

/* ---- budgets and memory */

/* Time stands still, runs, jumps: the steps go on, and prompts in big pieces
 * again after a pause that had nothing to do with them. */
START_TEST(one_slow_step_does_not_cut_prompts_short_for_ever)
{
    struct client slow = {0}, clients[8] = {0};
    size_t longest = 0;

    rig_open(&plain_config);
    ck_assert_int_eq(submit(&slow, "", prompts[3], 2), KV_OK);
    plan();
    compute_run(rig.compute, rig.slices, rig.n_slices);
    rig.now_ns += 3600 * KV_NS_PER_S;
    commit();
    run_all(&slow, 1);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(submit(&clients[i], "", prompts[3], 8), KV_OK);
        while (!clients[i].ended) {
            plan();
            for (size_t j = 0; i == 7 && j < rig.n_slices; j++)
                if (rig.slices[j].n_tokens > longest)
                    longest = rig.slices[j].n_tokens;
            compute_run(rig.compute, rig.slices, rig.n_slices);
            commit();
            scrub();
        }
    }
    ck_assert_uint_gt(longest, 4);
    rig_close();
}
END_TEST

START_TEST(a_step_allocates_nothing_but_what_sessions_need)
{
    struct client clients[N_CLIENTS] = {0};
    struct rig_config config = plain_config;
    int n_calls;

    config.max_running = MAX_RUNNING;
    rig_open(&config);
    submit_all(clients, 48, "s", NULL);
    step();
    n_calls = faulty_heap_calls();
    for (int i = 0; i < 5; i++)
        step();
    /* Blocks and tokens of a session grow by more than they need. */
    ck_assert_int_le(faulty_heap_calls() - n_calls, 2 * N_CLIENTS);
    scheduler_hand_back(rig.scheduler, rig.now_ns);
    rig_close();
}
END_TEST

START_TEST(a_failing_heap_ends_requests_and_nothing_else)
{
    for (int nth = 0; nth < 40; nth += 3) {
        struct client clients[N_CLIENTS] = {0}, after = {0};
        struct rig_config config = plain_config;

        config.max_running = MAX_RUNNING;
        config.block_tokens = 2;
        config.n_blocks = 200;
        rig_open(&config);
        submit_all(clients, 24, "s", NULL);
        faulty_heap_fail_at(nth);
        run_all(clients, N_CLIENTS);
        faulty_heap_fail_at(-1);
        check_pool();
        for (int i = 0; i < N_CLIENTS; i++)
            ck_assert(clients[i].end == REQUEST_NO_MEMORY ||
                      clients[i].end == REQUEST_MAX_TOKENS ||
                      clients[i].end == REQUEST_END_OF_TEXT);
        ck_assert_int_eq(submit(&after, "new", prompts[0], 3), KV_OK);
        run_all(&after, 1);
        ck_assert_uint_eq(after.n_tokens, 3);
        rig_close();
    }
}
END_TEST

START_TEST(opening_survives_each_failing_allocation)
{
    struct scheduler_config config;
    struct scheduler *scheduler = NULL;
    struct kv_error error;
    int nth = 0;

    rig_open(&plain_config);
    config = (struct scheduler_config){
        .pool = rig.pool,
        .tokenizer = rig.tokenizer,
        .n_context = 64,
        .max_running = 2,
        .max_waiting = 2,
        .max_batch_tokens = 8,
    };
    for (;; nth++) {
        int n_live = faulty_heap_live();

        faulty_heap_fail_at(nth);
        if (scheduler_open(&scheduler, &config, &error) == KV_OK)
            break;
        ck_assert_ptr_null(scheduler);
        ck_assert_int_eq(faulty_heap_live(), n_live);
    }
    faulty_heap_fail_at(-1);
    ck_assert_int_gt(nth, 1);
    scheduler_close(scheduler);
    rig_close();
}
END_TEST

START_TEST(prompts_that_arrive_together_are_computed_once)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    struct rig_config config = plain_config;
    uint32_t n_cached = 0, n_prompt = 0;

    prompts = alike;
    config.share_prefixes = true;
    config.max_running = MAX_RUNNING;
    config.max_batch_tokens = 16;
    run_plain(plain, 10, &seeded);
    rig_open(&config);
    submit_all(clients, 10, "s", &seeded);
    run_all(clients, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++) {
        check_same(&plain[i], &clients[i]);
        n_prompt += clients[i].request.usage.prompt_tokens;
        n_cached += clients[i].request.usage.cached_tokens;
        if (i > 0 && i != 4)
            ck_assert_uint_ge(clients[i].request.usage.cached_tokens, 8);
    }
    ck_assert_uint_gt(n_cached, n_prompt / 3);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(sharing_sequences_evicted_at_random_yield_what_plain_ones_do)
{
    struct client plain[N_CLIENTS] = {0};
    struct rig_config config = plain_config;

    prompts = alike;
    config.share_prefixes = true;
    config.max_running = MAX_RUNNING;
    run_plain(plain, 24, &seeded);
    for (uint32_t n_blocks = 14; n_blocks <= 64; n_blocks += 5) {
        struct client clients[N_CLIENTS] = {0};

        config.n_blocks = n_blocks;
        config.max_batch_tokens = 6 + (uint32_t)draw(40);
        rig_open(&config);
        rig.random += n_blocks;
        submit_all(clients, 24, draw(2) == 0 ? "" : "s", &seeded);
        for (int n_steps = 0; n_steps < 60; n_steps++) {
            struct client *victim = &clients[draw(N_CLIENTS)];

            if (!victim->ended && draw(3) == 0)
                evict(victim);
            step();
            check_pool();
        }
        run_all(clients, N_CLIENTS);
        for (int i = 0; i < N_CLIENTS; i++)
            check_same(&plain[i], &clients[i]);
        rig_close();
    }
}
END_TEST

static void set_up(void)
{
    prompts = different;
    faulty_heap_install();
    faulty_heap_fail_at(-1);
}

static void tear_down(void)
{
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* ---- priorities and quotas */

/* Who was set aside for whom: the last byte of a session's id is a digit, and
 * stands for its priority. */
static void check_ranks(void *ctx, const struct pool_eviction *eviction)
{
    const struct pool_key *by = eviction->cause->forced_by;
    int *n_aside = ctx;

    if (eviction->cause->reason != POOL_REASON_PRESSURE)
        return;
    ck_assert_int_le(
        eviction->key.id[eviction->key.id_bytes - 1], by->id[by->id_bytes - 1]);
    (*n_aside)++;
}

/* Priorities from 0 on, in the order of arrival or against it. */
static void run_by_priority(bool ascending)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    int n_aside = 0;
    const struct pool_observer observer = {
        .ctx = &n_aside, .evicted = check_ranks};
    const struct rig_config config = {
        .n_blocks = 10,
        .block_tokens = 4,
        .max_running = MAX_RUNNING,
        .max_batch_tokens = 32,
        .max_waiting = 16,
        .observer = &observer,
    };

    run_plain(plain, 16, NULL);
    rig_open(&config);
    for (int i = 0; i < N_CLIENTS; i++) {
        const int priority = ascending ? i : N_CLIENTS - 1 - i;
        char id[16];

        snprintf(id, sizeof id, "s%d", priority);
        clients[i].request.priority = (uint32_t)priority;
        ck_assert_int_eq(submit(&clients[i], id, prompts[i], 16), KV_OK);
        step(); /* those before have blocks already */
    }
    run_all(clients, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++)
        check_same(&plain[i], &clients[i]);
    ck_assert_int_gt(n_aside, 0);
    ck_assert_uint_eq(
        clients[ascending ? N_CLIENTS - 1 : 0].request.usage.preemptions, 0);
    check_pool();
    rig_close();
}

START_TEST(nobody_is_set_aside_for_a_lower_priority)
{
    run_by_priority(true);
    run_by_priority(false);
}
END_TEST

static const struct rig_config tight_config = {
    .n_blocks = 12,
    .block_tokens = 4,
    .max_running = MAX_RUNNING,
    .max_batch_tokens = 64,
    .max_waiting = 16,
};

/* Runs that fill the pool, and do not end by themselves soon. */
static void fill_pool(struct client *clients, int n, uint32_t priority)
{
    for (int i = 0; i < n; i++) {
        char id[16];

        snprintf(id, sizeof id, "low%d", i);
        clients[i].request.priority = priority;
        clients[i].request.ignores_end = true;
        ck_assert_int_eq(submit(&clients[i], id, prompts[0], 24), KV_OK);
    }
    for (int i = 0; pool_blocks(rig.pool).free > 0; i++) {
        ck_assert_int_lt(i, 100);
        step();
    }
}

START_TEST(a_higher_priority_does_not_wait_for_what_a_lower_one_holds)
{
    struct client low[2] = {0}, equal = {0}, high = {0};

    rig_open(&tight_config);
    fill_pool(low, 2, 10);
    equal.request.priority = 10;
    ck_assert_int_eq(submit(&equal, "equal", prompts[4], 4), KV_OK);
    step();
    ck_assert(!equal.started);
    high.request.priority = 11;
    ck_assert_int_eq(submit(&high, "high", prompts[4], 4), KV_OK);
    step(); /* blocks of the youngest low one are zeroed, */
    step(); /* and taken */
    ck_assert(high.started && high.n_tokens == 1);
    ck_assert(!low[1].ended && low[1].request.set_aside);
    ck_assert(!low[0].request.set_aside);
    run_all(&high, 1);
    ck_assert_uint_eq(high.request.usage.preemptions, 0);
    ck_assert(!low[0].ended);
    run_all(low, 2);
    run_all(&equal, 1);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(a_full_batch_gives_a_place_to_a_higher_priority)
{
    struct client low[2] = {0}, high = {0};
    struct rig_config config = plain_config;
    size_t n_blocks;

    config.max_running = 2;
    rig_open(&config);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(
            submit(&low[i], i == 0 ? "a" : "b", prompts[i], 12), KV_OK);
    step();
    step();
    high.request.priority = 1;
    ck_assert_int_eq(submit(&high, "high", prompts[2], 3), KV_OK);
    step();
    ck_assert_uint_eq(high.n_tokens, 1);
    ck_assert(low[1].request.set_aside && !low[0].request.set_aside);
    /* Nobody needs its blocks, so nothing is computed again. */
    pool_session_blocks(low[1].request.session, &n_blocks);
    ck_assert_uint_gt(n_blocks, 0);
    run_all(&high, 1);
    run_all(low, 2);
    ck_assert_uint_eq(low[1].request.usage.preemptions, 1);
    ck_assert_uint_eq(low[1].request.usage.recomputed_tokens, 0);
    rig_close();
}
END_TEST

static void set_quota(uint32_t soft_blocks, uint32_t hard_blocks)
{
    const struct pool_tenant_quota own = {
        .tenant = "q", .tenant_bytes = 1, .quota = {soft_blocks, hard_blocks}};
    const struct pool_quotas quotas = {.list = &own, .n = 1};

    ck_assert_int_eq(pool_set_quotas(rig.pool, &quotas), KV_OK);
}

START_TEST(a_conversation_beyond_a_hard_quota_is_refused_with_the_numbers)
{
    struct client first = {0}, second = {0};
    size_t n_tokens;

    rig_open(&tight_config);
    set_quota(0, 3);
    ck_assert_int_eq(
        submit_for("q", &first, "a", prompts[3], 4), KV_OVER_QUOTA);
    ck_assert_uint_eq(first.request.quota.used_blocks, 0);
    ck_assert_uint_gt(first.request.quota.needed_blocks, 3);
    ck_assert_uint_eq(first.request.quota.quota_blocks, 3);
    /* The session is as it was, and another tenant is not concerned. */
    pool_session_tokens(first.request.session, &n_tokens);
    ck_assert_uint_eq(n_tokens, 0);
    second.request.ignores_end = true;
    ck_assert_int_eq(submit_for("r", &second, "a", prompts[3], 4), KV_OK);
    run_all(&second, 1);
    ck_assert_int_eq(second.end, REQUEST_MAX_TOKENS);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(a_run_that_outgrows_its_quota_ends_with_what_it_has)
{
    struct client idle = {0}, run = {0}, other = {0};
    const struct pool_key key = {
        .tenant = "q", .tenant_bytes = 1, .id = "run", .id_bytes = 3};

    rig_open(&tight_config);
    set_quota(0, 4);
    ck_assert_int_eq(submit_for("r", &other, "other", prompts[5], 4), KV_OK);
    run_all(&other, 1);
    ck_assert_int_eq(submit_for("q", &idle, "idle", prompts[5], 4), KV_OK);
    run_all(&idle, 1);
    ck_assert_int_eq(submit_for("q", &run, "run", prompts[5], 40), KV_OK);
    run_all(&run, 1);
    ck_assert_int_eq(run.end, REQUEST_OVER_QUOTA);
    /* Its own idle session went first, nobody else's did. */
    ck_assert_uint_eq(
        pool_totals(rig.pool).evictions_by_reason[POOL_REASON_QUOTA], 1);
    ck_assert_uint_eq(pool_stats(rig.pool).evictions, 1);
    ck_assert_uint_eq(run.request.quota.used_blocks, 4);
    ck_assert_uint_eq(run.request.quota.needed_blocks, 1);
    ck_assert_uint_eq(run.request.quota.quota_blocks, 4);
    ck_assert_uint_eq(
        pool_session_glance(pool_session_find(rig.pool, &key)).n_cached_tokens,
        16);
    check_pool();
    rig_close();
}
END_TEST

START_TEST(runs_of_a_tenant_beyond_its_quota_take_turns)
{
    struct client plain[N_CLIENTS] = {0}, clients[N_CLIENTS] = {0};
    struct rig_config config = tight_config;

    config.n_blocks = 64;
    run_plain(plain, 16, NULL);
    rig_open(&config);
    set_quota(2, 9);
    for (int i = 0; i < N_CLIENTS; i++)
        ck_assert_int_eq(
            submit_for("q", &clients[i], "", prompts[i], 16), KV_OK);
    run_all(clients, N_CLIENTS);
    for (int i = 0; i < N_CLIENTS; i++)
        check_same(&plain[i], &clients[i]);
    check_pool();
    rig_close();
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        batched_and_chunked_sequences_yield_what_plain_ones_do,
        sequences_evicted_at_random_yield_what_plain_ones_do,
        sequences_short_of_blocks_yield_what_plain_ones_do,
        while_nothing_may_be_evicted_requests_end_that_need_it,
        a_request_fails_where_holds_never_end_in_time,
        a_request_waits_for_a_hold_that_ends_in_time_and_others_go_first,
        a_request_waits_for_no_longer_than_it_may,
        prompts_that_arrive_together_are_computed_once,
        sharing_sequences_evicted_at_random_yield_what_plain_ones_do,
        what_does_not_fit_together_is_not_let_in_together,
        a_session_continued_yields_what_one_call_does,
        a_last_token_computed_again_for_its_logits_is_no_recomputation,
        a_cancelled_request_ends_at_once_or_with_its_step,
        all_that_is_handed_back_ends_drained_within_the_step,
        a_full_context_and_a_full_queue_are_said,
        who_is_set_aside_does_not_count_as_waiting,
        a_stop_string_is_no_part_of_the_text,
        an_end_of_text_that_is_ignored_is_a_token_like_others,
        a_tenant_with_many_requests_does_not_hold_back_anothers,
        tenants_share_what_prompts_may_take_of_a_step,
        sequences_of_many_tenants_short_of_blocks_yield_what_plain_ones_do,
        nobody_is_set_aside_for_a_lower_priority,
        a_higher_priority_does_not_wait_for_what_a_lower_one_holds,
        a_full_batch_gives_a_place_to_a_higher_priority,
        a_conversation_beyond_a_hard_quota_is_refused_with_the_numbers,
        a_run_that_outgrows_its_quota_ends_with_what_it_has,
        runs_of_a_tenant_beyond_its_quota_take_turns,
        a_submit_without_memory_leaves_the_session_as_it_was,
        latencies_are_of_first_steps_and_tokens,
        one_slow_step_does_not_cut_prompts_short_for_ever,
        a_step_allocates_nothing_but_what_sessions_need,
        a_failing_heap_ends_requests_and_nothing_else,
        opening_survives_each_failing_allocation,
    };

    return CHECK_RUN("scheduler", set_up, tear_down, tests);
}
