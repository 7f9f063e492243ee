#include "engine/kv_layout.h"

#include <string.h>

#include "engine/quants.h"

#define BLOCK_ALIGNMENT 64

static const struct {
    const char *name;
    size_t block_elements, block_bytes;
} types[] = {
    [KV_TYPE_F32] = {"f32", 1, sizeof(float)},
    [KV_TYPE_F16] = {"f16", 1, sizeof(uint16_t)},
    [KV_TYPE_Q8_0] = {"q8_0", QUANTS_SMALL, sizeof(struct block_q8_0)},
};

const char *kv_type_name(enum kv_type type)
{
    return types[type].name;
}

bool kv_type_parse(const char *name, enum kv_type *out)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(name, types[i].name) == 0) {
            *out = (enum kv_type)i;
            return true;
        }
    return false;
}

size_t kv_type_bytes(enum kv_type type, size_t n)
{
    return n / types[type].block_elements * types[type].block_bytes;
}

size_t kv_bytes_per_token(const struct model_shape *shape, enum kv_type type)
{
    size_t n;

    if (shape->head_dim % types[type].block_elements != 0 ||
        __builtin_mul_overflow(
            (size_t)shape->n_kv_heads, shape->head_dim, &n) ||
        __builtin_mul_overflow(
            n / types[type].block_elements, 2 * types[type].block_bytes, &n) ||
        __builtin_mul_overflow(n, shape->n_layers, &n))
        return 0;
    return n;
}

size_t kv_block_bytes(
    const struct model_shape *shape, enum kv_type type, uint32_t block_tokens)
{
    size_t n;

    if (__builtin_mul_overflow(
            kv_bytes_per_token(shape, type), block_tokens, &n) ||
        n > SIZE_MAX - BLOCK_ALIGNMENT)
        return 0;
    return (n + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
}

enum kv_status kv_check_block(const struct model *model, enum kv_type type,
    uint32_t block_tokens, struct kv_error *error)
{
    const size_t block = types[type].block_elements;

    if (model->shape.head_dim % block != 0)
        return kv_error_set(error, KV_INVALID,
            "keys and values of type %s are blocks of %zu; heads of model %s "
            "have %u elements, which is no multiple of it",
            types[type].name, block, model->name, model->shape.head_dim);
    if (kv_block_bytes(&model->shape, type, block_tokens) == 0)
        return kv_error_set(error, KV_INVALID,
            "a block of %u tokens of model %s exceeds the address space",
            block_tokens, model->name);
    return KV_OK;
}
