/* The forward pass: tokens in, keys and values into pool blocks, tokens out.
 *
 * A step computes a batch of slices, each a run of consecutive tokens of one
 * sequence. Keys and values are written to the blocks of the slice's table and
 * read from there, block by block; there is no other copy of them.
 *
 * Batch invariance: what a slice yields depends on its tokens and positions
 * only, to the last bit, never on what else is in the batch, on how a prompt
 * was cut into slices, or on the number of threads.
 *
 * After a step model_check_file knows whether its weights were those of the
 * file that was opened.
 *
 * A fixed team of threads is started at open. Nothing allocates in a step.
 * Thread: compute_start by one thread at a time; done is called on a thread of
 * the team. */
#ifndef ENGINE_COMPUTE_H
#define ENGINE_COMPUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/model.h"
#include "engine/progress.h"
#include "engine/sampler.h"

/* Q8_0: blocks of 32 elements of a head, each with a scale. */
enum kv_type { KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_Q8_0 };
const char *kv_type_name(enum kv_type type); /* "f32", "f16", "q8_0" */
bool kv_type_parse(const char *name, enum kv_type *out);

/* Layout of a block: for each layer K then V, each [block_tokens][n_kv_heads *
 * head_dim]. Rounded up to 64 bytes. 0 if it overflows, or if head_dim is no
 * whole number of the type's blocks. */
size_t kv_bytes_per_token(const struct model_shape *shape, enum kv_type type);
size_t kv_block_bytes(
    const struct model_shape *shape, enum kv_type type, uint32_t block_tokens);

/* KV_INVALID, saying why, where keys and values of the model cannot be of the
 * type or a block exceeds the address space. */
enum kv_status kv_check_block(const struct model *model, enum kv_type type,
    uint32_t block_tokens, struct kv_error *error);

struct compute;

struct compute_config {
    const struct model *model; /* borrowed */
    unsigned char *arena;      /* of the pool */
    size_t block_bytes;        /* kv_block_bytes */
    uint32_t block_tokens;
    enum kv_type kv_type;
    uint32_t n_threads;        /* at least 1 */
    uint32_t max_batch_tokens; /* over all slices of a step */
    uint32_t max_slices;
    const char *kernels; /* as of kernels_choose: "auto", "scalar", ... */
    int nice; /* of the team's threads, where the system lets us; 0: as ours */
    bool locks_weights;              /* in memory, what a step reads of them */
    const struct progress *progress; /* of compute_open, borrowed; or NULL */
};

struct compute_slice {
    const uint32_t *tokens; /* [n_tokens], each below n_vocab */
    uint32_t n_tokens;
    uint32_t position;      /* of the first; all before it lie in the blocks */
    const uint32_t *blocks; /* long enough for position + n_tokens */

    /* Whether the token after the last is wanted, and how it is chosen. */
    bool samples;
    struct sampler_params sampling;
    uint64_t draw;
    const uint32_t *history; /* the tokens up to the last of the slice that */
    size_t n_history;        /* penalties may look back on; 0: none */
    uint32_t next_token;     /* out */
    /* How likely that token was, and the n_top most likely; NULL: nowhere. */
    struct sampler_logprobs *logprobs;
    uint32_t n_top_logprobs;
    /* Where the logits of the last token go too, [n_vocab]; NULL: nowhere. */
    float *logits;
};

/* KV_UNSUPPORTED: kernels that are not known, or not on this machine;
 * KV_INVALID: what kv_check_block refuses, or a batch whose scratch or weights
 * that, packed, exceed the address space; KV_NO_MEMORY, also where weights are
 * more than may be locked; KV_IO: model_check_file. */
enum kv_status compute_open(struct compute **out,
    const struct compute_config *config, struct kv_error *error);
void compute_close(struct compute *compute); /* none running; NULL is fine */

/* Computes the slices and calls done. Slices, tables and done's ctx are
 * borrowed until then. A sequence has at most one slice in a step. */
void compute_start(struct compute *compute, struct compute_slice *slices,
    size_t n_slices, void (*done)(void *ctx), void *ctx);

/* The same, waiting for it. */
void compute_run(
    struct compute *compute, struct compute_slice *slices, size_t n_slices);

const char *compute_kernels(const struct compute *compute); /* in use */
size_t compute_scratch_bytes(const struct compute *compute);
size_t compute_repacked_bytes(const struct compute *compute);
size_t compute_locked_bytes(const struct compute *compute);

#endif
