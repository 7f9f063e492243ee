#include <assert.h>
#include <string.h>

#include "engine/gguf_internal.h"

static const char *const value_names[GGUF_N_VALUE_TYPES] = {"u8", "i8", "u16",
    "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

static const struct gguf_key *find_key(
    const struct gguf *gguf, const char *name)
{
    struct gguf_string string = {name, strlen(name)};

    return (const void *)kv_map_find(&gguf->key_map,
        kv_siphash(gguf->key_map.secret, name, string.n), &string);
}

static enum kv_status wrong_type(const struct gguf *gguf,
    const struct gguf_key *key, const char *wanted, struct kv_error *error)
{
    bool is_array = key->type == GGUF_VALUE_ARRAY;

    return kv_error_set(error, KV_INVALID, "%s: key %s is %s%s; %s is needed",
        gguf->name, gguf_printable(key->name).text,
        is_array ? "an array of " : "of type ",
        value_names[is_array ? key->element_type : key->type], wanted);
}

/* The value, widened; false if it is not an integer. */
static bool decode_int(
    const struct gguf_key *key, uint64_t *value, bool *negative)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } raw = {.u64 = 0};
    int64_t with_sign = 0;

    if (key->type >= GGUF_VALUE_F32 && key->type <= GGUF_VALUE_ARRAY)
        return false;
    memcpy(&raw, key->value, gguf_value_bytes[key->type]);
    *value = raw.u64;
    if (key->type == GGUF_VALUE_I8)
        with_sign = raw.i8;
    else if (key->type == GGUF_VALUE_I16)
        with_sign = raw.i16;
    else if (key->type == GGUF_VALUE_I32)
        with_sign = raw.i32;
    else if (key->type == GGUF_VALUE_I64)
        with_sign = raw.i64;
    *negative = with_sign < 0;
    return key->type != GGUF_VALUE_F64;
}

enum kv_status gguf_get_uint(const struct gguf *gguf, const char *name,
    uint64_t *out, struct kv_error *error)
{
    const struct gguf_key *key = find_key(gguf, name);
    bool negative;
    uint64_t value;

    if (key == NULL)
        return KV_NOT_FOUND;
    if (!decode_int(key, &value, &negative))
        return wrong_type(gguf, key, "an integer", error);
    if (negative)
        return kv_error_set(error, KV_INVALID,
            "%s: key %s is negative; at least 0 is needed", gguf->name, name);
    *out = value;
    return KV_OK;
}

enum kv_status gguf_get_float(const struct gguf *gguf, const char *name,
    float *out, struct kv_error *error)
{
    const struct gguf_key *key = find_key(gguf, name);
    double wide;

    if (key == NULL)
        return KV_NOT_FOUND;
    if (key->type == GGUF_VALUE_F32) {
        memcpy(out, key->value, sizeof *out);
        return KV_OK;
    }
    if (key->type != GGUF_VALUE_F64)
        return wrong_type(gguf, key, "a floating-point number", error);
    memcpy(&wide, key->value, sizeof wide);
    *out = (float)wide;
    return KV_OK;
}

enum kv_status gguf_get_bool(const struct gguf *gguf, const char *name,
    bool *out, struct kv_error *error)
{
    const struct gguf_key *key = find_key(gguf, name);

    if (key == NULL)
        return KV_NOT_FOUND;
    if (key->type != GGUF_VALUE_BOOL)
        return wrong_type(gguf, key, "a boolean", error);
    if (*key->value > 1)
        return kv_error_set(error, KV_INVALID,
            "%s: key %s is a boolean of value %d; 0 and 1 are allowed",
            gguf->name, name, *key->value);
    *out = *key->value == 1;
    return KV_OK;
}

enum kv_status gguf_get_string(const struct gguf *gguf, const char *name,
    struct gguf_string *out, struct kv_error *error)
{
    const struct gguf_key *key = find_key(gguf, name);
    const unsigned char *at;

    if (key == NULL)
        return KV_NOT_FOUND;
    if (key->type != GGUF_VALUE_STRING)
        return wrong_type(gguf, key, "a string", error);
    at = key->value;
    *out = gguf_array_next_string(&at);
    return KV_OK;
}

enum kv_status gguf_get_array(const struct gguf *gguf, const char *name,
    enum gguf_array_kind kind, struct gguf_array *out, struct kv_error *error)
{
    static const uint32_t element_types[] = {
        [GGUF_STRINGS] = GGUF_VALUE_STRING,
        [GGUF_FLOATS] = GGUF_VALUE_F32,
        [GGUF_INTS] = GGUF_VALUE_I32,
    };
    static const char *const wanted[] = {
        [GGUF_STRINGS] = "an array of strings",
        [GGUF_FLOATS] = "an array of f32",
        [GGUF_INTS] = "an array of i32",
    };
    const struct gguf_key *key = find_key(gguf, name);

    if (key == NULL)
        return KV_NOT_FOUND;
    if (key->type != GGUF_VALUE_ARRAY ||
        key->element_type != element_types[kind])
        return wrong_type(gguf, key, wanted[kind], error);
    *out = (struct gguf_array){gguf, key->n, key->value};
    return KV_OK;
}

float gguf_array_float(const struct gguf_array *array, size_t i)
{
    float value;

    assert(i < array->n);
    memcpy(&value, array->data + i * sizeof value, sizeof value);
    return value;
}

int32_t gguf_array_int(const struct gguf_array *array, size_t i)
{
    int32_t value;

    assert(i < array->n);
    memcpy(&value, array->data + i * sizeof value, sizeof value);
    return value;
}

struct gguf_string gguf_array_next_string(const unsigned char **at)
{
    struct gguf_string string;
    uint64_t n;

    memcpy(&n, *at, sizeof n);
    string = (struct gguf_string){(const char *)*at + sizeof n, (size_t)n};
    *at += sizeof n + (size_t)n;
    return string;
}
