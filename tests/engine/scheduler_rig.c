#include "tests/engine/scheduler_rig.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/faulty_heap.h"
#include "tests/support/check_main.h"

struct rig rig;

const struct rig_config rig_plain_config = {
    .n_blocks = 64,
    .block_tokens = 8,
    .max_running = 1,
    .max_batch_tokens = 128,
    .max_waiting = 16,
};

const struct rig_config rig_tight_config = {
    .n_blocks = 12,
    .block_tokens = 4,
    .max_running = RIG_MAX_RUNNING,
    .max_batch_tokens = 64,
    .max_waiting = 16,
};

static const struct sampler_bias biases[] = {{400, 3}, {401, -100}};

const struct sampler_params rig_seeded = {
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

static const char *const different[RIG_CLIENTS] = {
    "Once upon a time there was a dog",
    "What is the sun?",
    "A cat sat",
    "One two three four five six seven eight nine ten eleven twelve",
    "The king and the queen went to the sea and saw a ship",
    "Why?",
};

#define BEGINNING "Once upon a time there was a dog who went to the sea and "
const char *const rig_alike[RIG_CLIENTS] = {
    BEGINNING "saw a ship",
    BEGINNING "saw a cat and the queen",
    BEGINNING "saw a cat and the king",
    BEGINNING,
    "One two three four five six seven eight nine ten eleven twelve",
    BEGINNING "saw a ship",
};

void rig_open(const struct rig_config *config)
{
    const enum kv_type kv_type = rig.kv_type;
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

void rig_close(void)
{
    scheduler_close(rig.scheduler);
    compute_close(rig.compute);
    pool_close(rig.pool);
    tokenizer_close(rig.tokenizer);
    model_close(rig.model);
}

void rig_set_up(void)
{
    rig.prompts = different;
    rig.kv_type = KV_TYPE_F16;
    faulty_heap_install();
    faulty_heap_fail_at(-1);
}

void rig_tear_down(void)
{
    ck_assert_int_eq(faulty_heap_live(), 0);
}

void rig_each_kv_type(void (*check)(void))
{
    static const enum kv_type types[] = {
        KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_Q8_0};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        rig.kv_type = types[i];
        check();
    }
}

uint64_t rig_draw(uint64_t n)
{
    rig.random ^= rig.random << 13;
    rig.random ^= rig.random >> 7;
    rig.random ^= rig.random << 17;
    return rig.random % n;
}

void rig_set_quota(uint32_t soft_blocks, uint32_t hard_blocks)
{
    const struct pool_tenant_quota own = {
        .tenant = "q", .tenant_bytes = 1, .quota = {soft_blocks, hard_blocks}};
    const struct pool_quotas quotas = {.list = &own, .n = 1};

    ck_assert_int_eq(pool_set_quotas(rig.pool, &quotas), KV_OK);
}

/* ---- clients */

static void on_started(struct request *request)
{
    struct rig_client *client = (struct rig_client *)(void *)request;

    ck_assert(!client->started);
    client->started = true;
}

static void add_text(struct rig_client *client, const char *text, size_t n)
{
    ck_assert_uint_lt(client->n_text + n, sizeof client->text);
    if (n > 0)
        memcpy(client->text + client->n_text, text, n);
    client->n_text += n;
}

static void on_token(
    struct request *request, uint32_t token, const char *text, size_t n_text)
{
    struct rig_client *client = (struct rig_client *)(void *)request;

    ck_assert(client->started && !client->ended);
    ck_assert_uint_lt(client->n_tokens, RIG_MAX_TOKENS);
    client->logprobs[client->n_tokens] = request->logprobs;
    client->tokens[client->n_tokens++] = token;
    add_text(client, text, n_text);
}

static void on_ended(struct request *request, enum request_end end,
    const char *text, size_t n_text)
{
    struct rig_client *client = (struct rig_client *)(void *)request;

    ck_assert(!client->ended);
    add_text(client, text, n_text);
    client->ended = true;
    client->end = end;
}

static const struct request_ops ops = {
    .on_started = on_started, .on_token = on_token, .on_ended = on_ended};

enum kv_status rig_submit_for(const char *tenant, struct rig_client *client,
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
                             TOKENIZER_ADD_BOS, &ids, &n_ids),
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

enum kv_status rig_submit(struct rig_client *client, const char *id,
    const char *text, uint32_t max_tokens)
{
    return rig_submit_for("", client, id, text, max_tokens);
}

void rig_submit_all(struct rig_client *clients, uint32_t max_tokens,
    const char *prefix, const struct sampler_params *sampling)
{
    char id[16];

    for (int i = 0; i < RIG_CLIENTS; i++) {
        snprintf(id, sizeof id, "%s%d", prefix, i);
        if (sampling != NULL)
            clients[i].request.sampling = *sampling;
        ck_assert_int_eq(rig_submit(&clients[i], prefix[0] == '\0' ? "" : id,
                             rig.prompts[i], max_tokens),
            KV_OK);
    }
}

/* ---- the loop */

void rig_scrub(void)
{
    struct pool_scrub job;

    while (pool_scrub_next(rig.pool, &job)) {
        for (size_t i = 0; i < job.n_extents; i++)
            memset(pool_arena(rig.pool) + job.extents[i].offset, 0,
                job.extents[i].size);
        pool_scrub_done(rig.pool, job.scrub_id, rig.now_ns);
    }
}

/* A plan of nobody leaves nobody who could go: another one, before anything
 * happens that would call for it, changes nothing. */
static void check_nobody_can_go(void)
{
    const struct scheduler_load before = scheduler_load(rig.scheduler);
    struct scheduler_load after;

    ck_assert_uint_eq(scheduler_plan(rig.scheduler, rig.slices, rig.now_ns), 0);
    after = scheduler_load(rig.scheduler);
    ck_assert_uint_eq(after.running, before.running);
    ck_assert_uint_eq(after.waiting, before.waiting);
    ck_assert_uint_eq(after.set_aside, before.set_aside);
}

size_t rig_plan(void)
{
    rig.now_ns += KV_NS_PER_MS;
    rig.n_slices = scheduler_plan(rig.scheduler, rig.slices, rig.now_ns);
    if (rig.n_slices == 0)
        check_nobody_can_go();
    return rig.n_slices;
}

void rig_commit(void)
{
    rig.now_ns += KV_NS_PER_MS;
    scheduler_commit(rig.scheduler, rig.slices, rig.n_slices, rig.now_ns);
}

void rig_step(void)
{
    if (rig_plan() > 0) {
        compute_run(rig.compute, rig.slices, rig.n_slices);
        rig_commit();
    }
    rig_scrub();
}

void rig_run_all(struct rig_client *clients, size_t n_clients)
{
    for (size_t i = 0; i < n_clients; i++)
        for (int n_steps = 0; !clients[i].ended; n_steps++) {
            ck_assert_int_lt(n_steps, 5000);
            rig_step();
        }
}

void rig_run_plain(struct rig_client *plain, uint32_t max_tokens,
    const struct sampler_params *sampling)
{
    rig_open(&rig_plain_config);
    for (int i = 0; i < RIG_CLIENTS; i++) {
        if (sampling != NULL)
            plain[i].request.sampling = *sampling;
        ck_assert_int_eq(
            rig_submit(&plain[i], "", rig.prompts[i], max_tokens), KV_OK);
        rig_run_all(&plain[i], 1);
    }
    rig_close();
}

void rig_evict(struct rig_client *client)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "test"};
    struct pool_batch_scope scope = pool_batch_begin(rig.pool, rig.now_ns);

    pool_evict_session(
        rig.pool, client->request.session, &cause, true, rig.now_ns);
    pool_batch_end(rig.pool, &scope, &cause, rig.now_ns);
}

/* ---- laws */

void rig_check_same(const struct rig_client *a, const struct rig_client *b)
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

void rig_check_pool(void)
{
    struct kv_error error;

    ck_assert_msg(pool_check(rig.pool, &error), "%s", error.text);
}
