/* What gguf.c reads out of a file and gguf_value.c decodes. */
#ifndef ENGINE_GGUF_INTERNAL_H
#define ENGINE_GGUF_INTERNAL_H

#include "base/map.h"
#include "engine/gguf.h"

#define GGUF_NAME_BYTES 128

enum gguf_value_type {
    GGUF_VALUE_U8,
    GGUF_VALUE_I8,
    GGUF_VALUE_U16,
    GGUF_VALUE_I16,
    GGUF_VALUE_U32,
    GGUF_VALUE_I32,
    GGUF_VALUE_F32,
    GGUF_VALUE_BOOL,
    GGUF_VALUE_STRING,
    GGUF_VALUE_ARRAY,
    GGUF_VALUE_U64,
    GGUF_VALUE_I64,
    GGUF_VALUE_F64,
    GGUF_N_VALUE_TYPES,
};

/* 0: as long as it says itself. */
extern const unsigned char gguf_value_bytes[GGUF_N_VALUE_TYPES];

struct gguf_key {
    struct kv_map_node node;
    struct gguf_string name;
    uint32_t type;
    uint32_t element_type;      /* of an array */
    size_t n;                   /* elements of an array */
    const unsigned char *value; /* of an array: its first element */
};

struct gguf_entry {
    struct kv_map_node node;
    struct gguf_tensor tensor;
    uint64_t offset;
};

struct gguf {
    char name[GGUF_NAME_BYTES];
    const unsigned char *data;
    size_t n_bytes;
    struct mapping mapping; /* of a file; else zeros */
    struct gguf_key *keys;
    struct gguf_entry *tensors;
    size_t n_keys, n_tensors;
    struct kv_map key_map, tensor_map;
};

#endif
