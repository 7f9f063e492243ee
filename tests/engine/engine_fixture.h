/* A model with blocks and a team to compute with, as the server would have. */
#ifndef TESTS_ENGINE_ENGINE_FIXTURE_H
#define TESTS_ENGINE_ENGINE_FIXTURE_H

#include "engine/compute.h"

#define ENGINE_DEMO DEMO_DIR "/demo.gguf"

/* Every set of kernels that there is, where a test is not of one of them. */
#ifndef ENGINE_KERNEL_SETS
#define ENGINE_KERNEL_SETS "scalar", "avx2", "avx512", "neon"
#endif

#define ENGINE_MAX_TOKENS 256 /* of a sequence */
#define ENGINE_MAX_BATCH 64
#define ENGINE_MAX_SEQUENCES 4

/* Under AddressSanitizer, the same kernel at work a hundred times more shows
 * nothing; what it computes is checked in builds that are ten times as fast. */
#if defined(__SANITIZE_ADDRESS__)
#define ENGINE_IS_SANITIZED 1
#else
#define ENGINE_IS_SANITIZED 0
#endif

struct engine {
    struct model *model;
    struct compute *compute;
    unsigned char *arena;
    uint32_t n_vocab;
    uint32_t blocks[ENGINE_MAX_SEQUENCES][ENGINE_MAX_TOKENS]; /* tables */
};

struct engine_config {
    const char *path;
    const char *kernels;
    enum kv_type kv_type;
    uint32_t n_threads;
    uint32_t block_tokens;
};

/* Fails the test if anything fails. */
void engine_open(struct engine *engine, const struct engine_config *config);
/* The same over a file in memory, aligned to 8 bytes, whatever the path. */
void engine_open_memory(struct engine *engine,
    const struct engine_config *config, const void *bytes, size_t n);
void engine_close(struct engine *engine);

/* Whether this machine runs kernels of this name. */
bool engine_has_kernels(const char *name);

/* Computes tokens of sequence `which` from position on, in slices of at most
 * slice_tokens; logits [n_vocab] are the last token's. Sequences have blocks of
 * their own, in no order. */
void engine_feed(struct engine *engine, uint32_t which, const uint32_t *tokens,
    uint32_t n_tokens, uint32_t position, uint32_t slice_tokens, float *logits);

/* $KVPOOL_MODELS/name, or NULL where the variable is not set, having said
 * that the test is skipped. */
const char *engine_shared_path(const char *name, char path[512]);

#endif
