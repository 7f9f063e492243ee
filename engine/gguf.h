/* A GGUF file (v2, v3; little-endian), read as hostile input: every count,
 * offset, size and string is checked against the file before it is used, so
 * what the getters hand out may be trusted in extent, though not in meaning.
 * Tensors that overlap are let be: nobody writes to them.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * Everything that is handed out is borrowed and lives as long as the gguf; it
 * points into the mapping. Any thread may read. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/mapping.h"

struct gguf;

/* Numbers of the format. */
enum gguf_tensor_type {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_BF16 = 30,
    GGUF_TQ1_0 = 34,
    GGUF_TQ2_0 = 35,
    GGUF_I2_S = 36, /* of BitNet's fork of ggml */
};
#define GGUF_N_TYPES 11

/* The supported types by name, for errors. */
#define GGUF_TYPES_TEXT                                                        \
    "F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, TQ1_0, TQ2_0, I2_S"

/* "F32", ...; NULL for a type that is not supported. */
const char *gguf_type_name(uint32_t type);

/* The same for every type that ggml has, supported or not; for errors. */
const char *gguf_type_known_name(uint32_t type);

/* Elements and bytes of one block of a supported type. */
size_t gguf_type_block_elements(enum gguf_tensor_type type);
size_t gguf_type_block_bytes(enum gguf_tensor_type type);

/* Bytes behind the last block of a tensor; 0 but for I2_S, where its scale is,
 * an F32. */
size_t gguf_type_tail_bytes(enum gguf_tensor_type type);

struct gguf_string {
    const char *data; /* not NUL-terminated, any bytes */
    size_t n;
};

/* The same for people: at most 95 bytes of it, valid UTF-8, without control
 * characters. Use as `gguf_printable(name).text` in one call. */
struct gguf_printable {
    char text[96];
};
struct gguf_printable gguf_printable(struct gguf_string string);

struct gguf_tensor {
    struct gguf_string name; /* 1 to 64 bytes, no other has it */
    size_t index;            /* gguf_tensor_at(index) is this one */
    enum gguf_tensor_type type;
    uint32_t n_dims;
    /* dims[0] runs fastest: the columns of a matrix, a whole number of the
     * type's blocks. Those that are not there are 1; none is 0. */
    uint64_t dims[4];
    const void *data;
    size_t n_bytes;
};

/* Maps the file read-only. KV_IO: it cannot be read; KV_INVALID: damaged, cut
 * short or not GGUF; KV_UNSUPPORTED: a version or tensor type that we do not
 * have; *error names the file, the thing in it, and what is wrong. */
enum kv_status gguf_open(
    struct gguf **out, const char *path, struct kv_error *error);

/* The same over memory that the caller keeps, aligned to 8 bytes; name stands
 * in errors. */
enum kv_status gguf_open_memory(struct gguf **out, const void *data, size_t n,
    const char *name, struct kv_error *error);

void gguf_close(struct gguf *gguf); /* NULL is fine */

/* Path or name as it stands in errors: printable, and cut at the front. */
const char *gguf_name(const struct gguf *gguf);
size_t gguf_file_bytes(const struct gguf *gguf);
const void *gguf_file_data(const struct gguf *gguf);

/* What has happened to the file since it was opened: what was made of what is
 * handed out since is worth nothing. Asked after reading, by any thread;
 * whether somebody wrote into it is known once gguf_look was called, which may
 * wait for a file system. A model in memory stays sound. */
enum mapping_state gguf_state(const struct gguf *gguf);
void gguf_look(const struct gguf *gguf);

/* KV_NOT_FOUND if the key is absent (no *error), KV_INVALID if its type or
 * value does not fit (with *error). Integers of any width convert, and so do
 * floating-point numbers; *out is then as the file says, finite or not. */
enum kv_status gguf_get_uint(const struct gguf *gguf, const char *key,
    uint64_t *out, struct kv_error *error);
enum kv_status gguf_get_float(const struct gguf *gguf, const char *key,
    float *out, struct kv_error *error);
enum kv_status gguf_get_bool(const struct gguf *gguf, const char *key,
    bool *out, struct kv_error *error);
enum kv_status gguf_get_string(const struct gguf *gguf, const char *key,
    struct gguf_string *out, struct kv_error *error);

/* Arrays of strings, float32 or int32; values are copied out one by one. */
enum gguf_array_kind { GGUF_STRINGS, GGUF_FLOATS, GGUF_INTS };
struct gguf_array {
    const struct gguf *gguf;
    size_t n;
    const unsigned char *data; /* packed, unaligned */
};
enum kv_status gguf_get_array(const struct gguf *gguf, const char *key,
    enum gguf_array_kind kind, struct gguf_array *out, struct kv_error *error);
float gguf_array_float(const struct gguf_array *array, size_t i);
int32_t gguf_array_int(const struct gguf_array *array, size_t i);

/* Strings vary in length, so they are walked: *at starts at array->data. */
struct gguf_string gguf_array_next_string(const unsigned char **at);

size_t gguf_n_tensors(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i);
const struct gguf_tensor *gguf_tensor_find(
    const struct gguf *gguf, const char *name);

#endif
