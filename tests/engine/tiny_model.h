/* A model of a few kilobytes that tests can damage: set the fields, then write
 * it. All weights are 0 but for `fill`, unless there is a seed. */
#ifndef TESTS_ENGINE_TINY_MODEL_H
#define TESTS_ENGINE_TINY_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* Value types of GGUF that are written here. */
enum { TINY_U8, TINY_U32 = 4, TINY_I32, TINY_F32, TINY_BOOL, TINY_STRING };

struct tiny_key {
    char name[64];
    uint32_t type; /* written as it is, whatever the value */
    uint64_t bits; /* the value's bytes, little-endian */
    const char *text;
};

struct tiny_tensor {
    char name[80];
    uint32_t type;
    uint64_t dims[4];
    uint32_t n_dims;
    uint64_t offset_skew; /* added to where it really is */
    float fill;           /* of an F32 tensor */
};

struct tiny_word {
    const char *text;
    float score;
    int32_t kind; /* of the token: 1 normal, 3 control, 4 user-defined */
};

#define TINY_MAX_TENSORS 64

struct tiny_model {
    uint32_t version;
    uint64_t seed;      /* not 0: F32 tensors are drawn from it, by name */
    uint64_t alignment; /* written as a key if it is not 32 */
    struct tiny_key keys[40];
    size_t n_keys;
    struct tiny_tensor tensors[TINY_MAX_TENSORS];
    size_t n_tensors;
    /* The vocabulary: <unk>, <s>, </s>, 256 bytes, then these. */
    struct tiny_word words[48];
    size_t n_words;
};

#define TINY_N_FIXED 259 /* tokens before the words */

/* Of each architecture that is supported: 2 layers, width 32, FFN 64, 4 heads,
 * 2 KV heads, of 8 elements or, in qwen3, 16; context 64, no words. */
void tiny_model_init(struct tiny_model *tiny, const char *architecture);

/* Rows of 256 columns throughout, as the largest blocks want them: width and
 * FFN 256, heads of 64. Of a model as it was initialised. */
void tiny_model_widen(struct tiny_model *tiny);

void tiny_model_add_word(
    struct tiny_model *tiny, const char *text, float score, int32_t kind);

/* "ARCH.suffix" or a whole name; added if it is not there. */
struct tiny_key *tiny_model_key(struct tiny_model *tiny, const char *name);
void tiny_model_set_uint(
    struct tiny_model *tiny, const char *name, uint32_t value);
void tiny_model_set_float(
    struct tiny_model *tiny, const char *name, float value);
void tiny_model_set_text(
    struct tiny_model *tiny, const char *name, const char *value);
void tiny_model_drop_key(struct tiny_model *tiny, const char *name);

/* Added as F32 [1] if it is not there. */
struct tiny_tensor *tiny_model_tensor(
    struct tiny_model *tiny, const char *name);
const struct tiny_tensor *tiny_model_find(
    const struct tiny_model *tiny, const char *name); /* or NULL */
void tiny_model_drop_tensor(struct tiny_model *tiny, const char *name);

/* Element i of an F32 tensor as it is written. */
float tiny_model_value(
    const struct tiny_model *tiny, const struct tiny_tensor *tensor, size_t i);

/* The file, in memory of malloc. */
unsigned char *tiny_model_write(const struct tiny_model *tiny, size_t *n);

#endif
