#include "tests/engine/engine_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "engine/kernels.h"
#include "tests/support/check_main.h"

/* Sequences take turns in the arena, and their blocks are in no order. */
static void deal_blocks(struct engine *engine, uint32_t blocks_per_sequence)
{
    for (uint32_t s = 0; s < ENGINE_MAX_SEQUENCES; s++)
        for (uint32_t i = 0; i < blocks_per_sequence; i++)
            engine->blocks[s][i] =
                i * 37 % blocks_per_sequence * ENGINE_MAX_SEQUENCES + s;
}

/* What there is to open once there is a model. */
static void open_compute(
    struct engine *engine, const struct engine_config *config)
{
    const uint32_t blocks_per_sequence =
        (ENGINE_MAX_TOKENS + config->block_tokens - 1) / config->block_tokens;
    const size_t n_blocks = (size_t)blocks_per_sequence * ENGINE_MAX_SEQUENCES;
    struct kv_error error = {.text = ""};
    struct compute_config compute = {
        .block_tokens = config->block_tokens,
        .kv_type = config->kv_type,
        .n_threads = config->n_threads,
        .max_batch_tokens = ENGINE_MAX_BATCH,
        .max_slices = ENGINE_MAX_SEQUENCES,
        .kernels = config->kernels,
    };

    engine->n_vocab = engine->model->shape.n_vocab;
    compute.model = engine->model;
    compute.block_bytes = kv_block_bytes(
        &engine->model->shape, config->kv_type, config->block_tokens);
    engine->arena = kv_calloc(n_blocks, compute.block_bytes);
    ck_assert_ptr_nonnull(engine->arena);
    /* What a sequence finds in its blocks is not zeros. */
    memset(engine->arena, 0xff, n_blocks * compute.block_bytes);
    compute.arena = engine->arena;
    deal_blocks(engine, blocks_per_sequence);
    ck_assert_msg(compute_open(&engine->compute, &compute, &error) == KV_OK,
        "%s", error.text);
}

void engine_open(struct engine *engine, const struct engine_config *config)
{
    struct kv_error error = {.text = ""};

    ck_assert_msg(model_open(&engine->model, config->path, &error) == KV_OK,
        "%s", error.text);
    open_compute(engine, config);
}

void engine_open_memory(struct engine *engine,
    const struct engine_config *config, const void *bytes, size_t n)
{
    struct kv_error error = {.text = ""};

    ck_assert_msg(
        model_open_memory(&engine->model, bytes, n, "a model", &error) == KV_OK,
        "%s", error.text);
    open_compute(engine, config);
}

void engine_close(struct engine *engine)
{
    compute_close(engine->compute);
    model_close(engine->model);
    kv_free(engine->arena);
}

bool engine_has_kernels(const char *name)
{
    const struct kernels *kernels;

    return kernels_choose(&kernels, name, NULL) == KV_OK;
}

void engine_feed(struct engine *engine, uint32_t which, const uint32_t *tokens,
    uint32_t n_tokens, uint32_t position, uint32_t slice_tokens, float *logits)
{
    for (uint32_t i = 0; i < n_tokens; i += slice_tokens) {
        const uint32_t left = n_tokens - i;
        struct compute_slice slice = {
            .tokens = tokens + i,
            .n_tokens = left < slice_tokens ? left : slice_tokens,
            .position = position + i,
            .blocks = engine->blocks[which],
            .logits = left <= slice_tokens ? logits : NULL,
        };

        compute_run(engine->compute, &slice, 1);
    }
}

const char *engine_shared_path(const char *name, char path[512])
{
    const char *directory = getenv("KVPOOL_MODELS");

    if (directory == NULL || directory[0] == '\0') {
        fprintf(stderr, "skipped: %s needs KVPOOL_MODELS\n", name);
        return NULL;
    }
    snprintf(path, 512, "%s/%s", directory, name);
    return path;
}
