/* Writes a GGUF model of any shape and tensor type with random weights, for
 * measurements: it computes like a trained one and says nothing. llama.cpp
 * reads it too.
 *
 *     synth_model --preset llama-110m --type q8_0 OUT.gguf
 *     synth_model --arch bitnet --layers 4 --embd 512 --ff 1024 --heads 8
 *         --kv-heads 4 --vocab 1000 --context 256 --type tq2_0 OUT.gguf
 *
 * A matrix whose rows are no whole number of blocks is F16, as llama.cpp's
 * quantiser does it.
 *
 * The type q4_k_m is the mixture that people ship: Q4_K, but for Q6_K in the
 * output and in half of the values and down projections. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bench/synth_blocks.h"

#define ALIGNMENT 32
#define N_FIXED_TOKENS 259 /* <unk>, <s>, </s> and the bytes */
#define MAX_TENSORS 16384
#define CHUNK_BLOCKS 4096

enum { VALUE_U32 = 4, VALUE_I32, VALUE_F32, VALUE_BOOL, VALUE_STRING };

struct shape {
    const char *architecture;
    uint32_t layers, embd, ff, heads, kv_heads, vocab, context;
    enum gguf_tensor_type type;
    bool is_tied;  /* the output to the embedding */
    bool is_mixed; /* Q4_K with Q6_K */
};

struct preset {
    const char *name;
    struct shape shape;
};

static const struct preset presets[] = {
    {"llama-110m",
        {"llama", 12, 768, 2048, 12, 12, 32000, 1024, GGUF_Q8_0, true, false}},
    {"llama-1.1b",
        {"llama", 22, 2048, 5632, 32, 4, 32000, 2048, GGUF_Q8_0, false, false}},
    {"bitnet-2b", {"bitnet", 30, 2560, 6912, 20, 5, 128256, 4096, GGUF_TQ2_0,
                      true, false}},
};

struct tensor {
    char name[48];
    uint64_t n_cols, n_rows; /* n_rows 0: a norm, of ones */
    enum gguf_tensor_type type;
    uint64_t n_bytes;
};

struct output {
    FILE *file;
    const char *path;
    uint64_t n;
    struct tensor *tensors;
    size_t n_tensors;
    uint64_t n_keys;
};

static _Noreturn void fail(const char *what, const char *detail)
{
    fprintf(stderr, "synth_model: %s: %s\n", what, detail);
    exit(1);
}

static void put(struct output *output, const void *data, size_t n)
{
    if (fwrite(data, 1, n, output->file) != n)
        fail(output->path, strerror(errno));
    output->n += n;
}

static void put_u32(struct output *output, uint32_t value)
{
    put(output, &value, sizeof value);
}

static void put_u64(struct output *output, uint64_t value)
{
    put(output, &value, sizeof value);
}

static void put_string(struct output *output, const char *text)
{
    put_u64(output, strlen(text));
    put(output, text, strlen(text));
}

static void put_padding(struct output *output)
{
    static const char zeros[ALIGNMENT];

    put(output, zeros, (ALIGNMENT - output->n % ALIGNMENT) % ALIGNMENT);
}

static void put_key(struct output *output, const char *name, uint32_t type)
{
    put_string(output, name);
    put_u32(output, type);
    output->n_keys++;
}

static void put_text_key(
    struct output *output, const char *name, const char *value)
{
    put_key(output, name, VALUE_STRING);
    put_string(output, value);
}

static void put_bool_key(struct output *output, const char *name, bool value)
{
    put_key(output, name, VALUE_BOOL);
    put(output, &(unsigned char){value}, 1);
}

static void put_arch_key(struct output *output, const char *architecture,
    const char *suffix, uint32_t value)
{
    char name[96];

    snprintf(name, sizeof name, "%s.%s", architecture, suffix);
    put_key(output, name, VALUE_U32);
    put_u32(output, value);
}

static void put_shape_keys(struct output *output, const struct shape *shape)
{
    const char *architecture = shape->architecture;
    char name[96];

    put_text_key(output, "general.architecture", architecture);
    put_text_key(output, "general.name", "synthetic");
    put_arch_key(output, "general", "quantization_version", 2);
    put_arch_key(output, architecture, "vocab_size", shape->vocab);
    put_arch_key(output, architecture, "context_length", shape->context);
    put_arch_key(output, architecture, "embedding_length", shape->embd);
    put_arch_key(output, architecture, "block_count", shape->layers);
    put_arch_key(output, architecture, "feed_forward_length", shape->ff);
    put_arch_key(output, architecture, "attention.head_count", shape->heads);
    put_arch_key(
        output, architecture, "attention.head_count_kv", shape->kv_heads);
    put_arch_key(output, architecture, "rope.dimension_count",
        shape->embd / shape->heads);
    snprintf(
        name, sizeof name, "%s.attention.layer_norm_rms_epsilon", architecture);
    put_key(output, name, VALUE_F32);
    put(output, &(float){1e-5f}, sizeof(float));
}

/* Three tokens, the bytes, a space, the letters, then words that no merging
 * reaches: every prompt becomes letters. */
static void name_token(uint32_t id, char out[32])
{
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    uint32_t i = id - N_FIXED_TOKENS;

    if (id < 3)
        snprintf(out, 32, "%s", first[id]);
    else if (id < N_FIXED_TOKENS)
        snprintf(out, 32, "<0x%02X>", id - 3);
    else if (i == 0)
        snprintf(out, 32, "\xE2\x96\x81");
    else if (i <= 26)
        snprintf(out, 32, "%c", (char)('a' + i - 1));
    else
        snprintf(out, 32, "\xE2\x96\x81word%" PRIu32, i);
}

static void put_array_key(
    struct output *output, const char *name, uint32_t type, uint64_t n)
{
    put_key(output, name, 9);
    put_u32(output, type);
    put_u64(output, n);
}

static void put_vocabulary(struct output *output, uint32_t n_vocab)
{
    char name[32];

    put_text_key(output, "tokenizer.ggml.model", "llama");
    put_array_key(output, "tokenizer.ggml.tokens", VALUE_STRING, n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++) {
        name_token(id, name);
        put_string(output, name);
    }
    put_array_key(output, "tokenizer.ggml.scores", VALUE_F32, n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++) {
        float score = id < N_FIXED_TOKENS ? 0.0f : -(float)id;

        put(output, &score, sizeof score);
    }
    put_array_key(output, "tokenizer.ggml.token_type", VALUE_I32, n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++) {
        int32_t kind = id == 0 ? 2 : id < 3 ? 3 : id < N_FIXED_TOKENS ? 6 : 1;

        put(output, &kind, sizeof kind);
    }
    put_arch_key(output, "tokenizer.ggml", "bos_token_id", 1);
    put_arch_key(output, "tokenizer.ggml", "eos_token_id", 2);
    put_arch_key(output, "tokenizer.ggml", "unknown_token_id", 0);
    put_bool_key(output, "tokenizer.ggml.add_bos_token", true);
    put_bool_key(output, "tokenizer.ggml.add_space_prefix", true);
}

static void add_tensor(struct output *output, const char *name, uint64_t n_cols,
    uint64_t n_rows, enum gguf_tensor_type type)
{
    struct tensor *tensor = &output->tensors[output->n_tensors++];

    if (n_cols % gguf_type_block_elements(type) != 0)
        type = GGUF_F16;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->n_cols = n_cols;
    tensor->n_rows = n_rows;
    tensor->type = type;
    tensor->n_bytes = n_cols / gguf_type_block_elements(type) *
                          gguf_type_block_bytes(type) *
                          (n_rows == 0 ? 1 : n_rows) +
                      gguf_type_tail_bytes(type);
}

/* Values and down projections of the first and last eighth of the layers, and
 * of each third one between, as llama.cpp's quantiser chooses them. */
static enum gguf_tensor_type type_in_mixture(
    const struct shape *shape, const char *what, uint32_t layer)
{
    const uint32_t eighth = shape->layers / 8;

    if (!shape->is_mixed ||
        (strcmp(what, "attn_v") != 0 && strcmp(what, "ffn_down") != 0))
        return shape->type;
    return layer < eighth || layer >= 7 * shape->layers / 8 ||
                   (layer - eighth) % 3 == 2
               ? GGUF_Q6_K
               : shape->type;
}

static void add_layer(
    struct output *output, const struct shape *shape, uint32_t layer)
{
    uint32_t kv_rows = shape->embd / shape->heads * shape->kv_heads;
    bool is_bitnet = strcmp(shape->architecture, "bitnet") == 0;
    const struct {
        const char *what;
        uint32_t n_cols, n_rows;
        bool is_there;
    } tensors[] = {
        {"attn_norm", shape->embd, 0, true},
        {"attn_q", shape->embd, shape->embd, true},
        {"attn_k", shape->embd, kv_rows, true},
        {"attn_v", shape->embd, kv_rows, true},
        {"attn_sub_norm", shape->embd, 0, is_bitnet},
        {"attn_output", shape->embd, shape->embd, true},
        {"ffn_norm", shape->embd, 0, true},
        {"ffn_gate", shape->embd, shape->ff, true},
        {"ffn_up", shape->embd, shape->ff, true},
        {"ffn_sub_norm", shape->ff, 0, is_bitnet},
        {"ffn_down", shape->ff, shape->embd, true},
    };
    char name[48];

    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer,
            tensors[i].what);
        if (tensors[i].is_there)
            add_tensor(output, name, tensors[i].n_cols, tensors[i].n_rows,
                tensors[i].n_rows == 0
                    ? GGUF_F32
                    : type_in_mixture(shape, tensors[i].what, layer));
    }
}

static void add_tensors(struct output *output, const struct shape *shape,
    enum gguf_tensor_type output_type)
{
    const bool is_tied =
        shape->is_tied || strcmp(shape->architecture, "bitnet") == 0;

    add_tensor(output, "token_embd.weight", shape->embd, shape->vocab,
        shape->is_mixed && !is_tied ? shape->type : output_type);
    add_tensor(output, "output_norm.weight", shape->embd, 0, GGUF_F32);
    if (!is_tied)
        add_tensor(
            output, "output.weight", shape->embd, shape->vocab, output_type);
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        add_layer(output, shape, layer);
}

static void put_tensor_infos(struct output *output)
{
    uint64_t offset = 0;

    for (size_t i = 0; i < output->n_tensors; i++) {
        const struct tensor *tensor = &output->tensors[i];

        put_string(output, tensor->name);
        put_u32(output, tensor->n_rows == 0 ? 1 : 2);
        put_u64(output, tensor->n_cols);
        if (tensor->n_rows != 0)
            put_u64(output, tensor->n_rows);
        put_u32(output, tensor->type);
        put_u64(output, offset);
        offset += (tensor->n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
}

static void put_tail(struct output *output, const struct tensor *tensor)
{
    const float tail[8] = {synth_blocks_tail_scale(tensor->n_cols)};
    const size_t n = gguf_type_tail_bytes(tensor->type);

    if (n > 0)
        put(output, tail, n);
}

static void put_matrix(struct output *output, const struct tensor *tensor,
    struct synth_blocks *blocks, unsigned char *chunk)
{
    size_t block_bytes = gguf_type_block_bytes(tensor->type);
    uint64_t n_left =
        (tensor->n_bytes - gguf_type_tail_bytes(tensor->type)) / block_bytes;

    while (n_left > 0) {
        size_t n = n_left < CHUNK_BLOCKS ? (size_t)n_left : CHUNK_BLOCKS;

        synth_blocks_fill(blocks, chunk, n, tensor->type, tensor->n_cols);
        put(output, chunk, n * block_bytes);
        n_left -= n;
    }
    put_tail(output, tensor);
}

static void put_data(struct output *output, uint64_t seed)
{
    struct synth_blocks blocks;
    unsigned char *chunk =
        malloc((size_t)CHUNK_BLOCKS * SYNTH_BLOCKS_MAX_BYTES);

    if (chunk == NULL)
        fail("data", "out of memory");
    synth_blocks_init(&blocks, seed);
    for (size_t i = 0; i < output->n_tensors; i++) {
        const struct tensor *tensor = &output->tensors[i];

        if (tensor->n_rows > 0)
            put_matrix(output, tensor, &blocks, chunk);
        for (uint64_t j = 0; tensor->n_rows == 0 && j < tensor->n_cols; j++)
            put(output, &(float){1.0f}, sizeof(float));
        put_padding(output);
    }
    free(chunk);
}

static void write_model(const char *path, const struct shape *shape,
    enum gguf_tensor_type output_type, uint64_t seed)
{
    struct output output = {.path = path};

    output.tensors = calloc(MAX_TENSORS, sizeof *output.tensors);
    output.file = fopen(path, "wb");
    if (output.tensors == NULL || output.file == NULL)
        fail(path, strerror(errno));
    setvbuf(output.file, NULL, _IOFBF, 1 << 20);
    add_tensors(&output, shape, output_type);
    put(&output, "GGUF", 4);
    put_u32(&output, 3);
    put_u64(&output, output.n_tensors);
    put_u64(&output, 0); /* n_keys, once they are counted */
    put_shape_keys(&output, shape);
    put_vocabulary(&output, shape->vocab);
    put_tensor_infos(&output);
    put_padding(&output);
    put_data(&output, seed);
    if (fseek(output.file, 16, SEEK_SET) != 0)
        fail(path, strerror(errno));
    put_u64(&output, output.n_keys);
    if (fclose(output.file) != 0)
        fail(path, strerror(errno));
    free(output.tensors);
    printf("%s: %s, %zu tensors, %" PRIu64 " bytes\n", path,
        shape->architecture, output.n_tensors, output.n - 8);
}

static enum gguf_tensor_type parse_type(const char *text)
{
    for (uint32_t type = 0; type < 64; type++)
        if (gguf_type_name(type) != NULL &&
            strcasecmp(gguf_type_name(type), text) == 0)
            return (enum gguf_tensor_type)type;
    fail(text, "no such type; known are " GGUF_TYPES_TEXT);
}

static uint32_t parse_number(const char *text, uint32_t max)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || value > max)
        fail(text, "a number in range is needed");
    return (uint32_t)value;
}

static struct shape parse_preset(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, name) == 0)
            return presets[i].shape;
    fail(name, "no such preset; known are llama-110m, llama-1.1b, bitnet-2b");
}

static void check_shape(const struct shape *shape)
{
    if (strcmp(shape->architecture, "llama") != 0 &&
        strcmp(shape->architecture, "bitnet") != 0)
        fail(shape->architecture, "no such architecture: llama, bitnet");
    if (shape->layers < 1 || shape->layers > MAX_TENSORS / 11 - 1)
        fail("--layers", "1 to 1488 are allowed");
    if (shape->heads < 1 || shape->kv_heads < 1 || shape->ff < 1 ||
        shape->context < 1 || shape->heads % shape->kv_heads != 0 ||
        shape->embd % (2 * shape->heads) != 0 || shape->embd < 1)
        fail("shape", "--embd must be a multiple of twice --heads, --heads of "
                      "--kv-heads, and all at least 1");
    if (shape->vocab < N_FIXED_TOKENS + 27)
        fail("--vocab", "at least 286 is needed");
}

static void print_usage(FILE *file)
{
    fputs(
        "usage: synth_model [--preset llama-110m|llama-1.1b|bitnet-2b]\n"
        "    [--arch llama|bitnet] [--layers N] [--embd N] [--ff N]\n"
        "    [--heads N] [--kv-heads N] [--vocab N] [--context N]\n"
        "    [--type f32|f16|bf16|q8_0|q4_0|q4_k|q5_k|q6_k|q4_k_m|tq1_0|tq2_0\n"
        "           |i2_s]\n"
        "    [--output-type TYPE]\n"
        "    [--seed N] OUT.gguf\n"
        "Options after --preset change it; without one it is llama-110m.\n"
        "The output type is also the embedding's: --type unless that is\n"
        "ternary, then f16. q4_k_m: q6_k, and q4_k for an embedding of its "
        "own.\n",

        file);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"preset", required_argument, NULL, 'p'},
        {"arch", required_argument, NULL, 'a'},
        {"layers", required_argument, NULL, 'l'},
        {"embd", required_argument, NULL, 'e'},
        {"ff", required_argument, NULL, 'f'},
        {"heads", required_argument, NULL, 'h'},
        {"kv-heads", required_argument, NULL, 'k'},
        {"vocab", required_argument, NULL, 'v'},
        {"context", required_argument, NULL, 'c'},
        {"type", required_argument, NULL, 't'},
        {"output-type", required_argument, NULL, 'o'},
        {"seed", required_argument, NULL, 's'},
        {"help", no_argument, NULL, '?'},
        {NULL, 0, NULL, 0},
    };
    struct shape shape = presets[0].shape;
    const char *output_type_text = NULL;
    enum gguf_tensor_type output_type;
    uint32_t seed = 1;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p':
            shape = parse_preset(optarg);
            break;
        case 'a':
            shape.architecture = optarg;
            break;
        case 'l':
            shape.layers = parse_number(optarg, 1u << 20);
            break;
        case 'e':
            shape.embd = parse_number(optarg, 1u << 20);
            break;
        case 'f':
            shape.ff = parse_number(optarg, 1u << 20);
            break;
        case 'h':
            shape.heads = parse_number(optarg, 1u << 16);
            break;
        case 'k':
            shape.kv_heads = parse_number(optarg, 1u << 16);
            break;
        case 'v':
            shape.vocab = parse_number(optarg, 1u << 24);
            break;
        case 'c':
            shape.context = parse_number(optarg, 1u << 30);
            break;
        case 't':
            shape.is_mixed = strcasecmp(optarg, "q4_k_m") == 0;
            shape.type = shape.is_mixed ? GGUF_Q4_K : parse_type(optarg);
            break;
        case 'o':
            output_type_text = optarg;
            break;
        case 's':
            seed = parse_number(optarg, UINT32_MAX);
            break;
        default:
            print_usage(stderr);
            return 2;
        }
    if (optind + 1 != argc) {
        print_usage(stderr);
        return 2;
    }
    check_shape(&shape);
    output_type = shape.type == GGUF_TQ1_0 || shape.type == GGUF_TQ2_0 ||
                          shape.type == GGUF_I2_S
                      ? GGUF_F16
                  : shape.is_mixed ? GGUF_Q6_K
                                   : shape.type;
    if (output_type_text != NULL)
        output_type = parse_type(output_type_text);
    write_model(argv[optind], &shape, output_type, seed);
    return 0;
}
