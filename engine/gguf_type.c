#include "engine/gguf.h"

#include <assert.h>

/* Every tensor type of ggml that a file may name; those with a block size are
 * the ones that we compute with. BitNet's fork of it has types of its own,
 * under numbers that ggml has given to others since, or gave before. */
struct type_info {
    const char *name;
    size_t block_elements, block_bytes, tail_bytes;
};

static const struct type_info types[] = {
    [0] = {"F32", 1, 4, 0},
    [1] = {"F16", 1, 2, 0},
    [2] = {"Q4_0", 32, 18, 0},
    [3] = {.name = "Q4_1"},
    [6] = {.name = "Q5_0"},
    [7] = {.name = "Q5_1"},
    [8] = {"Q8_0", 32, 34, 0},
    [9] = {.name = "Q8_1"},
    [10] = {.name = "Q2_K"},
    [11] = {.name = "Q3_K"},
    [12] = {"Q4_K", 256, 144, 0},
    [13] = {"Q5_K", 256, 176, 0},
    [14] = {"Q6_K", 256, 210, 0},
    [15] = {.name = "Q8_K"},
    [16] = {.name = "IQ2_XXS"},
    [17] = {.name = "IQ2_XS"},
    [18] = {.name = "IQ3_XXS"},
    [19] = {.name = "IQ1_S"},
    [20] = {.name = "IQ4_NL"},
    [21] = {.name = "IQ3_S"},
    [22] = {.name = "IQ2_S"},
    [23] = {.name = "IQ4_XS"},
    [24] = {.name = "I8"},
    [25] = {.name = "I16"},
    [26] = {.name = "I32"},
    [27] = {.name = "I64"},
    [28] = {.name = "F64"},
    [29] = {.name = "IQ1_M"},
    [30] = {"BF16", 1, 2, 0},
    [31] = {.name = "Q4_0_4_4"},
    [32] = {.name = "Q4_0_4_8"},
    [33] = {.name = "Q4_0_8_8"},
    [34] = {"TQ1_0", 256, 54, 0},
    [35] = {"TQ2_0", 256, 66, 0},
    [36] = {"I2_S", 256, 64, 32},
    [37] = {.name = "I8_S (or IQ4_NL_4_8)"},
    [38] = {.name = "TL1 (or IQ4_NL_8_8)"},
    [39] = {.name = "MXFP4 (or TL2)"},
    [40] = {.name = "NVFP4"},
    [41] = {.name = "Q1_0"},
    [42] = {.name = "Q2_0"},
};
#define N_TYPES (sizeof types / sizeof *types)

const char *gguf_type_name(uint32_t type)
{
    if (type >= N_TYPES || types[type].block_bytes == 0)
        return NULL;
    return types[type].name;
}

const char *gguf_type_known_name(uint32_t type)
{
    return type < N_TYPES ? types[type].name : NULL;
}

size_t gguf_type_block_elements(enum gguf_tensor_type type)
{
    assert(gguf_type_name(type) != NULL);
    return types[type].block_elements;
}

size_t gguf_type_block_bytes(enum gguf_tensor_type type)
{
    assert(gguf_type_name(type) != NULL);
    return types[type].block_bytes;
}

size_t gguf_type_tail_bytes(enum gguf_tensor_type type)
{
    assert(gguf_type_name(type) != NULL);
    return types[type].tail_bytes;
}
