#include "engine/kv_layout.h"

#include <string.h>

#define BLOCK_ALIGNMENT 64

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [KV_TYPE_F32] = {"f32", 4},
    [KV_TYPE_F16] = {"f16", 2},
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

size_t kv_type_bytes(enum kv_type type)
{
    return types[type].bytes;
}

size_t kv_bytes_per_token(const struct model_shape *shape, enum kv_type type)
{
    size_t n;

    if (__builtin_mul_overflow(
            (size_t)shape->n_kv_heads, shape->head_dim, &n) ||
        __builtin_mul_overflow(n, 2 * kv_type_bytes(type), &n) ||
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
