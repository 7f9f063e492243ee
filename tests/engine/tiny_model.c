#include "tests/engine/tiny_model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf.h"
#include "tests/engine/gguf_writer.h"

static void add_matrix(
    struct tiny_model *tiny, const char *name, uint64_t n_cols, uint64_t n_rows)
{
    struct tiny_tensor *tensor = tiny_model_tensor(tiny, name);

    tensor->dims[0] = n_cols;
    tensor->dims[1] = n_rows;
    tensor->n_dims = n_rows == 1 ? 1 : 2;
}

static void add_layer(
    struct tiny_model *tiny, int layer, const char *architecture)
{
    const int has_sub_norms = strncmp(architecture, "bitnet", 6) == 0;
    const int has_biases = strcmp(architecture, "qwen2") == 0;
    const int has_head_norms = strcmp(architecture, "qwen3") == 0;
    const uint64_t head_dim = has_head_norms ? 16 : 8;
    const struct {
        const char *what;
        uint64_t n_cols, n_rows;
        int is_there;
    } tensors[] = {
        {"attn_norm.weight", 32, 1, 1},
        {"ffn_norm.weight", 32, 1, 1},
        {"attn_q.weight", 32, 4 * head_dim, 1},
        {"attn_k.weight", 32, 2 * head_dim, 1},
        {"attn_v.weight", 32, 2 * head_dim, 1},
        {"attn_output.weight", 4 * head_dim, 32, 1},
        {"ffn_gate.weight", 32, 64, 1},
        {"ffn_up.weight", 32, 64, 1},
        {"ffn_down.weight", 64, 32, 1},
        {"attn_sub_norm.weight", 32, 1, has_sub_norms},
        {"ffn_sub_norm.weight", 64, 1, has_sub_norms},
        {"attn_q.bias", 32, 1, has_biases},
        {"attn_k.bias", 16, 1, has_biases},
        {"attn_v.bias", 16, 1, has_biases},
        {"attn_q_norm.weight", head_dim, 1, has_head_norms},
        {"attn_k_norm.weight", head_dim, 1, has_head_norms},
    };
    char name[64];

    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (tensors[i].is_there) {
            snprintf(name, sizeof name, "blk.%d.%s", layer, tensors[i].what);
            add_matrix(tiny, name, tensors[i].n_cols, tensors[i].n_rows);
        }
}

void tiny_model_init(struct tiny_model *tiny, const char *architecture)
{
    static const struct {
        const char *suffix;
        uint32_t value;
    } numbers[] = {
        {"block_count", 2},
        {"context_length", 64},
        {"embedding_length", 32},
        {"feed_forward_length", 64},
        {"attention.head_count", 4},
        {"attention.head_count_kv", 2},
    };
    char name[64];

    *tiny = (struct tiny_model){.version = 3, .alignment = 32};
    tiny_model_set_text(tiny, "general.architecture", architecture);
    tiny_model_set_text(tiny, "general.name", "tiny");
    tiny_model_set_text(tiny, "tokenizer.ggml.model", "llama");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(name, sizeof name, "%s.%s", architecture, numbers[i].suffix);
        tiny_model_set_uint(tiny, name, numbers[i].value);
    }
    snprintf(
        name, sizeof name, "%s.attention.layer_norm_rms_epsilon", architecture);
    tiny_model_set_float(tiny, name, 1e-5f);
    add_matrix(tiny, "token_embd.weight", 32, TINY_N_FIXED);
    add_matrix(tiny, "output_norm.weight", 32, 1);
    for (int layer = 0; layer < 2; layer++)
        add_layer(tiny, layer, architecture);
    if (strcmp(architecture, "qwen3") == 0) {
        tiny_model_set_uint(tiny, "qwen3.attention.key_length", 16);
        tiny_model_set_uint(tiny, "qwen3.attention.value_length", 16);
    }
}

static uint64_t widened(uint64_t dim)
{
    return dim == 32 || dim == 64 ? 256 : dim == 16 ? 128 : dim;
}

void tiny_model_widen(struct tiny_model *tiny)
{
    for (size_t i = 0; i < tiny->n_tensors; i++)
        for (size_t j = 0; j < 2; j++)
            tiny->tensors[i].dims[j] = widened(tiny->tensors[i].dims[j]);
    for (size_t i = 0; i < tiny->n_keys; i++)
        if (strstr(tiny->keys[i].name, ".embedding_length") != NULL ||
            strstr(tiny->keys[i].name, ".feed_forward_length") != NULL)
            tiny->keys[i].bits = 256;
}

void tiny_model_add_word(
    struct tiny_model *tiny, const char *text, float score, int32_t kind)
{
    assert(tiny->n_words < sizeof tiny->words / sizeof *tiny->words);
    tiny->words[tiny->n_words++] = (struct tiny_word){text, score, kind};
    tiny_model_tensor(tiny, "token_embd.weight")->dims[1]++;
}

struct tiny_key *tiny_model_key(struct tiny_model *tiny, const char *name)
{
    for (size_t i = 0; i < tiny->n_keys; i++)
        if (strcmp(tiny->keys[i].name, name) == 0)
            return &tiny->keys[i];
    assert(tiny->n_keys < sizeof tiny->keys / sizeof *tiny->keys);
    snprintf(tiny->keys[tiny->n_keys].name,
        sizeof tiny->keys[tiny->n_keys].name, "%s", name);
    return &tiny->keys[tiny->n_keys++];
}

void tiny_model_set_uint(
    struct tiny_model *tiny, const char *name, uint32_t value)
{
    struct tiny_key *key = tiny_model_key(tiny, name);

    key->type = TINY_U32;
    key->bits = value;
}

void tiny_model_set_float(
    struct tiny_model *tiny, const char *name, float value)
{
    struct tiny_key *key = tiny_model_key(tiny, name);

    key->type = TINY_F32;
    memcpy(&key->bits, &value, sizeof value);
}

void tiny_model_set_text(
    struct tiny_model *tiny, const char *name, const char *value)
{
    struct tiny_key *key = tiny_model_key(tiny, name);

    key->type = TINY_STRING;
    key->text = value;
}

void tiny_model_drop_key(struct tiny_model *tiny, const char *name)
{
    *tiny_model_key(tiny, name) = tiny->keys[tiny->n_keys - 1];
    tiny->n_keys--;
}

const struct tiny_tensor *tiny_model_find(
    const struct tiny_model *tiny, const char *name)
{
    for (size_t i = 0; i < tiny->n_tensors; i++)
        if (strcmp(tiny->tensors[i].name, name) == 0)
            return &tiny->tensors[i];
    return NULL;
}

struct tiny_tensor *tiny_model_tensor(struct tiny_model *tiny, const char *name)
{
    const struct tiny_tensor *found = tiny_model_find(tiny, name);
    struct tiny_tensor *tensor;

    if (found != NULL)
        return &tiny->tensors[found - tiny->tensors];
    assert(tiny->n_tensors < TINY_MAX_TENSORS);
    tensor = &tiny->tensors[tiny->n_tensors++];
    *tensor = (struct tiny_tensor){.dims = {1, 1, 1, 1}, .n_dims = 1};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

void tiny_model_drop_tensor(struct tiny_model *tiny, const char *name)
{
    *tiny_model_tensor(tiny, name) = tiny->tensors[tiny->n_tensors - 1];
    tiny->n_tensors--;
}

static void put_key(struct gguf_writer *writer, const struct tiny_key *key)
{
    static const size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

    gguf_put_text(writer, key->name);
    gguf_put_u32(writer, key->type);
    if (key->type == TINY_STRING)
        gguf_put_text(writer, key->text);
    else if (key->type < sizeof bytes / sizeof *bytes)
        gguf_put(writer, &key->bits, bytes[key->type]);
}

static struct tiny_word word_at(
    const struct tiny_model *tiny, size_t i, char byte_name[8])
{
    static const struct tiny_word first[] = {
        {"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};

    if (i < 3)
        return first[i];
    if (i >= TINY_N_FIXED)
        return tiny->words[i - TINY_N_FIXED];
    snprintf(byte_name, 8, "<0x%02X>", (unsigned)(i - 3) & 0xFF);
    return (struct tiny_word){byte_name, 0, 6};
}

static void put_array_key(struct gguf_writer *writer, const char *name,
    uint32_t element_type, size_t n)
{
    gguf_put_text(writer, name);
    gguf_put_u32(writer, 9);
    gguf_put_u32(writer, element_type);
    gguf_put_u64(writer, n);
}

static void put_vocabulary(
    struct gguf_writer *writer, const struct tiny_model *tiny)
{
    size_t n = TINY_N_FIXED + tiny->n_words;
    char name[8];

    put_array_key(writer, "tokenizer.ggml.tokens", TINY_STRING, n);
    for (size_t i = 0; i < n; i++)
        gguf_put_text(writer, word_at(tiny, i, name).text);
    put_array_key(writer, "tokenizer.ggml.scores", TINY_F32, n);
    for (size_t i = 0; i < n; i++)
        gguf_put(writer, &(float){word_at(tiny, i, name).score}, sizeof(float));
    put_array_key(writer, "tokenizer.ggml.token_type", TINY_I32, n);
    for (size_t i = 0; i < n; i++)
        gguf_put(
            writer, &(int32_t){word_at(tiny, i, name).kind}, sizeof(int32_t));
}

/* Of a tensor whose shape is sound; the others need no data to be refused. */
static size_t data_bytes(const struct tiny_tensor *tensor)
{
    uint64_t n = tensor->dims[0] * tensor->dims[1];

    if (gguf_type_name(tensor->type) == NULL || n > 1000000)
        return 0;
    return (size_t)n / gguf_type_block_elements(tensor->type) *
               gguf_type_block_bytes(tensor->type) +
           gguf_type_tail_bytes(tensor->type);
}

static void pad(struct gguf_writer *writer, size_t from, uint64_t alignment)
{
    if (alignment > 4096) /* such a file is refused before its data */
        return;
    while (alignment > 0 && (writer->n - from) % alignment != 0)
        gguf_put(writer, "", 1);
}

static void put_tensor_infos(
    struct gguf_writer *writer, const struct tiny_model *tiny)
{
    uint64_t offset = 0;

    for (size_t i = 0; i < tiny->n_tensors; i++) {
        const struct tiny_tensor *tensor = &tiny->tensors[i];

        gguf_put_text(writer, tensor->name);
        gguf_put_u32(writer, tensor->n_dims);
        for (uint32_t j = 0; j < tensor->n_dims && j < 4; j++)
            gguf_put_u64(writer, tensor->dims[j]);
        gguf_put_u32(writer, tensor->type);
        gguf_put_u64(writer, offset + tensor->offset_skew);
        offset += data_bytes(tensor);
        while (tiny->alignment > 0 && offset % tiny->alignment != 0)
            offset++;
    }
}

/* -1 to 1, by splitmix64 (Steele et al., 2014) of seed, name and place. */
static float draw(uint64_t seed, const char *name, size_t i)
{
    uint64_t x = seed;

    for (; *name != '\0'; name++)
        x = x * 31 + (unsigned char)*name;
    x = x * 1000003 + i + 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    x ^= x >> 31;
    return (float)(x >> 40) / (1 << 23) - 1;
}

/* Such that signals stay of one size through the layers. */
float tiny_model_value(
    const struct tiny_model *tiny, const struct tiny_tensor *tensor, size_t i)
{
    float value;

    if (tiny->seed == 0)
        return tensor->fill;
    value = draw(tiny->seed, tensor->name, i);
    if (strstr(tensor->name, ".bias") != NULL)
        return 0.5f * value;
    return tensor->n_dims == 1 ? 1 + 0.25f * value
                               : 1.7f * value / sqrtf((float)tensor->dims[0]);
}

static void put_data(struct gguf_writer *writer, const struct tiny_model *tiny,
    const struct tiny_tensor *tensor)
{
    size_t n = data_bytes(tensor);

    for (size_t i = 0; i < n; i += sizeof(float)) {
        const float value =
            tensor->type == GGUF_F32
                ? tiny_model_value(tiny, tensor, i / sizeof(float))
                : 0;

        gguf_put(writer, &value, n - i < sizeof value ? n - i : sizeof value);
    }
}

unsigned char *tiny_model_write(const struct tiny_model *tiny, size_t *n)
{
    struct gguf_writer writer = {.bytes = NULL};
    struct tiny_key alignment = {"general.alignment", TINY_U32, 0, NULL};
    size_t n_own = 3, data;

    alignment.bits = tiny->alignment;
    gguf_put(&writer, "GGUF", 4);
    gguf_put_u32(&writer, tiny->version);
    gguf_put_u64(&writer, tiny->n_tensors);
    gguf_put_u64(&writer, tiny->n_keys + n_own + (tiny->alignment != 32));
    for (size_t i = 0; i < tiny->n_keys; i++)
        put_key(&writer, &tiny->keys[i]);
    if (tiny->alignment != 32)
        put_key(&writer, &alignment);
    put_vocabulary(&writer, tiny);
    put_tensor_infos(&writer, tiny);
    pad(&writer, 0, tiny->alignment);
    data = writer.n;
    for (size_t i = 0; i < tiny->n_tensors; i++) {
        put_data(&writer, tiny, &tiny->tensors[i]);
        pad(&writer, data, tiny->alignment);
    }
    *n = writer.n;
    return writer.bytes;
}
