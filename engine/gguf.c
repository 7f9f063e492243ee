#include "engine/gguf_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/utf8.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF files are little-endian, and their weights are used as they lie"
#endif

/* The file, in this order:
 *
 *     "GGUF"  u32 version  u64 n_tensors  u64 n_keys
 *     n_keys    x { string key, u32 type, value }
 *     n_tensors x { string name, u32 n_dims, u64 dims[], u32 type, u64 offset }
 *     padding up to the alignment
 *     data, where the offsets point
 *
 * A string is u64 n and n bytes; an array value is u32 type, u64 n and n values
 * of that type. open() walks the file once with a cursor that cannot leave it
 * and keeps pointers to the values; gguf_value.c decodes them. */

const unsigned char gguf_value_bytes[GGUF_N_VALUE_TYPES] = {
    [GGUF_VALUE_U8] = 1,
    [GGUF_VALUE_I8] = 1,
    [GGUF_VALUE_U16] = 2,
    [GGUF_VALUE_I16] = 2,
    [GGUF_VALUE_U32] = 4,
    [GGUF_VALUE_I32] = 4,
    [GGUF_VALUE_F32] = 4,
    [GGUF_VALUE_BOOL] = 1,
    [GGUF_VALUE_U64] = 8,
    [GGUF_VALUE_I64] = 8,
    [GGUF_VALUE_F64] = 8,
};

/* Far above any real file; they keep what we allocate in proportion. */
#define MAX_KEYS (UINT64_C(1) << 16)
#define MAX_TENSORS (UINT64_C(1) << 20)
#define MAX_KEY_BYTES 65535
#define MAX_TENSOR_NAME_BYTES 64
#define MIN_KEY_RECORD_BYTES (8 + 1 + 4 + 1)
#define MIN_TENSOR_RECORD_BYTES (8 + 1 + 4 + 8 + 4 + 8)
#define MAX_ALIGNMENT (UINT64_C(1) << 20)

/* What is left of the file; taking more than that is an error. */
struct cursor {
    struct gguf *gguf;
    const unsigned char *at;
    size_t n_left;
    struct kv_error *error;
};

/* Copies whole characters until one does not fit. */
static void copy_printable(char *out, size_t size, const char *text, size_t n)
{
    size_t n_out = 0;
    int length;

    for (size_t i = 0; i<n; i += length> 0 ? (size_t)length : 1) {
        length = kv_utf8_length(text + i, n - i);
        if (length <= 0 || kv_utf8_has_control(text + i, (size_t)length)) {
            if (n_out + 2 > size)
                break;
            out[n_out++] = '?';
            continue;
        }
        if (n_out + (size_t)length + 1 > size)
            break;
        memcpy(out + n_out, text + i, (size_t)length);
        n_out += (size_t)length;
    }
    out[n_out] = '\0';
}

struct gguf_printable gguf_printable(struct gguf_string string)
{
    struct gguf_printable printable = {""};

    copy_printable(
        printable.text, sizeof printable.text, string.data, string.n);
    return printable;
}

/* The end of a path says more than its beginning. */
static void shorten_name(char out[GGUF_NAME_BYTES], const char *name)
{
    size_t n = strlen(name), max = GGUF_NAME_BYTES - 4;

    if (n <= max) {
        copy_printable(out, GGUF_NAME_BYTES, name, n);
        return;
    }
    memcpy(out, "...", 3);
    copy_printable(out + 3, GGUF_NAME_BYTES - 3, name + (n - max), max);
}

static enum kv_status cut_short(struct cursor *cursor, const char *where)
{
    return kv_error_set(cursor->error, KV_INVALID,
        "%s: the file ends inside %s; it is cut short or damaged",
        cursor->gguf->name, where);
}

static const unsigned char *take(struct cursor *cursor, size_t n)
{
    const unsigned char *at = cursor->at;

    if (n > cursor->n_left)
        return NULL;
    cursor->at += n;
    cursor->n_left -= n;
    return at;
}

static bool take_u32(struct cursor *cursor, uint32_t *out)
{
    const unsigned char *at = take(cursor, sizeof *out);

    if (at == NULL)
        return false;
    memcpy(out, at, sizeof *out);
    return true;
}

static bool take_u64(struct cursor *cursor, uint64_t *out)
{
    const unsigned char *at = take(cursor, sizeof *out);

    if (at == NULL)
        return false;
    memcpy(out, at, sizeof *out);
    return true;
}

static bool take_string(struct cursor *cursor, struct gguf_string *out)
{
    uint64_t n;

    if (!take_u64(cursor, &n) || n > cursor->n_left)
        return false;
    out->n = (size_t)n;
    out->data = (const char *)take(cursor, out->n);
    return true;
}

static enum kv_status read_array(struct cursor *cursor, struct gguf_key *key)
{
    struct gguf_string string;
    uint64_t n;

    if (!take_u32(cursor, &key->element_type) || !take_u64(cursor, &n))
        return cut_short(cursor, gguf_printable(key->name).text);
    if (key->element_type >= GGUF_N_VALUE_TYPES ||
        key->element_type == GGUF_VALUE_ARRAY)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: key %s is an array of type %" PRIu32
            "; elements must be numbers, booleans or strings",
            cursor->gguf->name, gguf_printable(key->name).text,
            key->element_type);
    key->value = cursor->at;
    if (key->element_type == GGUF_VALUE_STRING) {
        for (uint64_t i = 0; i < n; i++)
            if (!take_string(cursor, &string))
                return cut_short(cursor, gguf_printable(key->name).text);
    } else {
        size_t bytes = gguf_value_bytes[key->element_type];

        if (n > cursor->n_left / bytes)
            return cut_short(cursor, gguf_printable(key->name).text);
        take(cursor, (size_t)n * bytes);
    }
    key->n = (size_t)n;
    return KV_OK;
}

static enum kv_status read_value(struct cursor *cursor, struct gguf_key *key)
{
    struct gguf_string string;

    if (key->type >= GGUF_N_VALUE_TYPES)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: key %s has value type %" PRIu32 "; 0 to %d are known",
            cursor->gguf->name, gguf_printable(key->name).text, key->type,
            GGUF_N_VALUE_TYPES - 1);
    if (key->type == GGUF_VALUE_ARRAY)
        return read_array(cursor, key);
    key->value = cursor->at;
    if (key->type == GGUF_VALUE_STRING
            ? !take_string(cursor, &string)
            : !take(cursor, gguf_value_bytes[key->type]))
        return cut_short(cursor, gguf_printable(key->name).text);
    return KV_OK;
}

static bool strings_equal(struct gguf_string a, struct gguf_string b)
{
    return a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
}

static bool key_is(const struct kv_map_node *node, const void *name)
{
    return strings_equal(((const struct gguf_key *)(const void *)node)->name,
        *(const struct gguf_string *)name);
}

static bool tensor_is(const struct kv_map_node *node, const void *name)
{
    return strings_equal(
        ((const struct gguf_entry *)(const void *)node)->tensor.name,
        *(const struct gguf_string *)name);
}

/* False if there is one of that name. */
static bool insert_new(
    struct kv_map *map, struct kv_map_node *node, struct gguf_string name)
{
    uint64_t hash = kv_siphash(map->secret, name.data, name.n);

    if (kv_map_find(map, hash, &name) != NULL)
        return false;
    kv_map_insert(map, node, hash);
    return true;
}

static enum kv_status read_key(struct cursor *cursor, struct gguf_key *key)
{
    enum kv_status status;

    if (!take_string(cursor, &key->name))
        return cut_short(cursor, "the name of a key");
    if (key->name.n == 0 || key->name.n > MAX_KEY_BYTES)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: the name of a key has %zu bytes; 1 to %d are allowed",
            cursor->gguf->name, key->name.n, MAX_KEY_BYTES);
    if (!take_u32(cursor, &key->type))
        return cut_short(cursor, gguf_printable(key->name).text);
    status = read_value(cursor, key);
    if (status != KV_OK)
        return status;
    if (!insert_new(&cursor->gguf->key_map, &key->node, key->name))
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: key %s is there twice", cursor->gguf->name,
            gguf_printable(key->name).text);
    return KV_OK;
}

/* Bytes of the tensor, once its type and dims are known. */
static enum kv_status measure_tensor(
    struct cursor *cursor, struct gguf_tensor *tensor)
{
    size_t block_elements = gguf_type_block_elements(tensor->type);
    uint64_t n_bytes;

    for (uint32_t i = 0; i < 4; i++)
        if (tensor->dims[i] == 0)
            return kv_error_set(cursor->error, KV_INVALID,
                "%s: tensor %s has a dimension of 0; at least 1 is needed",
                cursor->gguf->name, gguf_printable(tensor->name).text);
    if (tensor->dims[0] % block_elements != 0)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s has rows of %" PRIu64
            " elements; for type %s a multiple of %zu is needed",
            cursor->gguf->name, gguf_printable(tensor->name).text,
            tensor->dims[0], gguf_type_name(tensor->type), block_elements);
    n_bytes = tensor->dims[0] / block_elements;
    if (__builtin_mul_overflow(
            n_bytes, gguf_type_block_bytes(tensor->type), &n_bytes) ||
        __builtin_mul_overflow(n_bytes, tensor->dims[1], &n_bytes) ||
        __builtin_mul_overflow(n_bytes, tensor->dims[2], &n_bytes) ||
        __builtin_mul_overflow(n_bytes, tensor->dims[3], &n_bytes) ||
        __builtin_add_overflow(
            n_bytes, gguf_type_tail_bytes(tensor->type), &n_bytes) ||
        n_bytes > cursor->gguf->n_bytes)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s of %" PRIu64 " x %" PRIu64 " x %" PRIu64
            " x %" PRIu64 " elements is larger than the file's %zu bytes",
            cursor->gguf->name, gguf_printable(tensor->name).text,
            tensor->dims[0], tensor->dims[1], tensor->dims[2], tensor->dims[3],
            cursor->gguf->n_bytes);
    tensor->n_bytes = (size_t)n_bytes;
    return KV_OK;
}

static enum kv_status check_type(
    struct cursor *cursor, const struct gguf_tensor *tensor, uint32_t type)
{
    const char *name = gguf_type_known_name(type);

    if (gguf_type_name(type) != NULL)
        return KV_OK;
    if (name != NULL)
        return kv_error_set(cursor->error, KV_UNSUPPORTED,
            "%s: tensor %s has type %s; supported are " GGUF_TYPES_TEXT,
            cursor->gguf->name, gguf_printable(tensor->name).text, name);
    return kv_error_set(cursor->error, KV_UNSUPPORTED,
        "%s: tensor %s has the unknown type %" PRIu32
        "; supported are " GGUF_TYPES_TEXT,
        cursor->gguf->name, gguf_printable(tensor->name).text, type);
}

static enum kv_status read_tensor_name(
    struct cursor *cursor, struct gguf_tensor *tensor)
{
    if (!take_string(cursor, &tensor->name))
        return cut_short(cursor, "the name of a tensor");
    if (tensor->name.n == 0 || tensor->name.n > MAX_TENSOR_NAME_BYTES)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: the name of a tensor has %zu bytes; 1 to %d are allowed",
            cursor->gguf->name, tensor->name.n, MAX_TENSOR_NAME_BYTES);
    return KV_OK;
}

static enum kv_status read_tensor(
    struct cursor *cursor, struct gguf_entry *entry)
{
    struct gguf_tensor *tensor = &entry->tensor;
    enum kv_status status = read_tensor_name(cursor, tensor);
    uint32_t type;

    if (status != KV_OK)
        return status;
    if (!take_u32(cursor, &tensor->n_dims))
        return cut_short(cursor, gguf_printable(tensor->name).text);
    if (tensor->n_dims < 1 || tensor->n_dims > 4)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s has %" PRIu32 " dimensions; 1 to 4 are allowed",
            cursor->gguf->name, gguf_printable(tensor->name).text,
            tensor->n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims && !take_u64(cursor, &tensor->dims[i]))
            return cut_short(cursor, gguf_printable(tensor->name).text);
    }
    if (!take_u32(cursor, &type) || !take_u64(cursor, &entry->offset))
        return cut_short(cursor, gguf_printable(tensor->name).text);
    status = check_type(cursor, tensor, type);
    if (status != KV_OK)
        return status;
    tensor->type = (enum gguf_tensor_type)type;
    if (!insert_new(&cursor->gguf->tensor_map, &entry->node, tensor->name))
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s is there twice", cursor->gguf->name,
            gguf_printable(tensor->name).text);
    return measure_tensor(cursor, tensor);
}

static enum kv_status read_alignment(struct cursor *cursor, uint64_t *alignment)
{
    enum kv_status status = gguf_get_uint(
        cursor->gguf, "general.alignment", alignment, cursor->error);

    if (status == KV_NOT_FOUND) {
        *alignment = 32;
        return KV_OK;
    }
    if (status != KV_OK)
        return status;
    if (*alignment < 8 || *alignment > MAX_ALIGNMENT ||
        (*alignment & (*alignment - 1)) != 0)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: general.alignment is %" PRIu64
            "; a power of two from 8 to %" PRIu64 " is needed",
            cursor->gguf->name, *alignment, MAX_ALIGNMENT);
    return KV_OK;
}

static enum kv_status place_tensor(struct cursor *cursor,
    struct gguf_entry *entry, uint64_t base, uint64_t alignment)
{
    const struct gguf *gguf = cursor->gguf;
    uint64_t begin, end;

    if (entry->offset % alignment != 0)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s has offset %" PRIu64
            "; a multiple of the alignment %" PRIu64 " is needed",
            gguf->name, gguf_printable(entry->tensor.name).text, entry->offset,
            alignment);
    if (__builtin_add_overflow(base, entry->offset, &begin) ||
        __builtin_add_overflow(begin, entry->tensor.n_bytes, &end) ||
        end > gguf->n_bytes)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: tensor %s (%zu bytes at offset %" PRIu64
            " of the data) ends behind the file's %zu bytes; it is cut short "
            "or damaged",
            gguf->name, gguf_printable(entry->tensor.name).text,
            entry->tensor.n_bytes, entry->offset, gguf->n_bytes);
    entry->tensor.data = gguf->data + begin;
    return KV_OK;
}

static enum kv_status place_tensors(struct cursor *cursor)
{
    struct gguf *gguf = cursor->gguf;
    uint64_t alignment, base;
    enum kv_status status = read_alignment(cursor, &alignment);

    if (status != KV_OK)
        return status;
    base = (uint64_t)(cursor->at - gguf->data);
    base = (base + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < gguf->n_tensors && status == KV_OK; i++)
        status = place_tensor(cursor, &gguf->tensors[i], base, alignment);
    return status;
}

static enum kv_status check_version(struct cursor *cursor)
{
    const unsigned char *magic = take(cursor, 4);
    uint32_t version;

    if (magic == NULL || memcmp(magic, "GGUF", 4) != 0)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: not a GGUF file: it does not begin with \"GGUF\"",
            cursor->gguf->name);
    if (!take_u32(cursor, &version))
        return cut_short(cursor, "the header");
    if (version != 0 && (version & 0xFFFF) == 0)
        return kv_error_set(cursor->error, KV_UNSUPPORTED,
            "%s: a big-endian GGUF file; little-endian is supported",
            cursor->gguf->name);
    if (version != 2 && version != 3)
        return kv_error_set(cursor->error, KV_UNSUPPORTED,
            "%s: GGUF version %" PRIu32 "; 2 and 3 are supported",
            cursor->gguf->name, version);
    return KV_OK;
}

static enum kv_status read_counts(struct cursor *cursor)
{
    struct gguf *gguf = cursor->gguf;
    uint64_t n_tensors, n_keys;

    if (!take_u64(cursor, &n_tensors) || !take_u64(cursor, &n_keys))
        return cut_short(cursor, "the header");
    if (n_tensors > MAX_TENSORS || n_keys > MAX_KEYS ||
        n_tensors * MIN_TENSOR_RECORD_BYTES + n_keys * MIN_KEY_RECORD_BYTES >
            cursor->n_left)
        return kv_error_set(cursor->error, KV_INVALID,
            "%s: %" PRIu64 " tensors and %" PRIu64
            " keys in %zu bytes; at most %" PRIu64 " and %" PRIu64
            " are allowed, and they must fit",
            gguf->name, n_tensors, n_keys, gguf->n_bytes, MAX_TENSORS,
            MAX_KEYS);
    gguf->n_tensors = (size_t)n_tensors;
    gguf->n_keys = (size_t)n_keys;
    return KV_OK;
}

/* Names come from the file, so the hashes are keyed by chance. */
static enum kv_status allocate(struct gguf *gguf, struct kv_error *error)
{
    uint64_t secret[2];

    if (getentropy(secret, sizeof secret) != 0)
        return kv_error_set(
            error, KV_IO, "no random numbers: %s", strerrordesc_np(errno));
    gguf->keys = kv_calloc(gguf->n_keys + 1, sizeof *gguf->keys);
    gguf->tensors = kv_calloc(gguf->n_tensors + 1, sizeof *gguf->tensors);
    if (gguf->keys == NULL || gguf->tensors == NULL ||
        kv_map_init(&gguf->key_map, gguf->n_keys, secret, key_is) != KV_OK ||
        kv_map_init(&gguf->tensor_map, gguf->n_tensors, secret, tensor_is) !=
            KV_OK)
        return kv_error_set(error, KV_NO_MEMORY,
            "%s: no memory for %zu keys and %zu tensors", gguf->name,
            gguf->n_keys, gguf->n_tensors);
    return KV_OK;
}

static enum kv_status parse(struct gguf *gguf, struct kv_error *error)
{
    struct cursor cursor = {gguf, gguf->data, gguf->n_bytes, error};
    enum kv_status status = check_version(&cursor);

    if (status == KV_OK)
        status = read_counts(&cursor);
    if (status == KV_OK)
        status = allocate(gguf, error);
    for (size_t i = 0; status == KV_OK && i < gguf->n_keys; i++)
        status = read_key(&cursor, &gguf->keys[i]);
    for (size_t i = 0; status == KV_OK && i < gguf->n_tensors; i++) {
        gguf->tensors[i].tensor.index = i;
        status = read_tensor(&cursor, &gguf->tensors[i]);
    }
    return status == KV_OK ? place_tensors(&cursor) : status;
}

enum kv_status gguf_open_memory(struct gguf **out, const void *data, size_t n,
    const char *name, struct kv_error *error)
{
    struct gguf *gguf = kv_calloc(1, sizeof *gguf);
    enum kv_status status;

    assert((uintptr_t)data % 8 == 0);
    if (gguf == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory to open a model");
    shorten_name(gguf->name, name);
    gguf->data = data;
    gguf->n_bytes = n;
    status = parse(gguf, error);
    if (status != KV_OK) {
        gguf_close(gguf);
        return status;
    }
    *out = gguf;
    return KV_OK;
}

static enum kv_status io_error(
    struct kv_error *error, const char *path, const char *what)
{
    char name[GGUF_NAME_BYTES];

    shorten_name(name, path);
    return kv_error_set(
        error, KV_IO, "%s: %s: %s", name, what, strerrordesc_np(errno));
}

/* The mapping outlives fd. */
static enum kv_status map_file(
    int fd, const char *path, struct mapping *mapping, struct kv_error *error)
{
    struct stat stat;

    if (fstat(fd, &stat) != 0)
        return io_error(error, path, "cannot be examined");
    if (!S_ISREG(stat.st_mode)) {
        errno = S_ISDIR(stat.st_mode) ? EISDIR : ENODEV;
        return io_error(error, path, "not a regular file");
    }
    if (stat.st_size == 0) {
        errno = ENODATA;
        return io_error(error, path, "empty");
    }
    errno = mapping_init(mapping, fd, (size_t)stat.st_size);
    if (errno != 0)
        return io_error(error, path, "cannot be mapped");
    return KV_OK;
}

enum kv_status gguf_open(
    struct gguf **out, const char *path, struct kv_error *error)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct mapping mapping;
    enum kv_status status;

    if (fd < 0)
        return io_error(error, path, "cannot be opened");
    status = map_file(fd, path, &mapping, error);
    close(fd);
    if (status != KV_OK)
        return status;
    status = gguf_open_memory(out, mapping.data, mapping.n_bytes, path, error);
    if (status != KV_OK) {
        mapping_fini(&mapping);
        return status;
    }
    (*out)->mapping = mapping;
    return KV_OK;
}

void gguf_close(struct gguf *gguf)
{
    if (gguf == NULL)
        return;
    kv_map_fini(&gguf->tensor_map);
    kv_map_fini(&gguf->key_map);
    kv_free(gguf->tensors);
    kv_free(gguf->keys);
    if (gguf->mapping.data != NULL)
        mapping_fini(&gguf->mapping);
    kv_free(gguf);
}

const char *gguf_name(const struct gguf *gguf)
{
    return gguf->name;
}

size_t gguf_file_bytes(const struct gguf *gguf)
{
    return gguf->n_bytes;
}

const void *gguf_file_data(const struct gguf *gguf)
{
    return gguf->data;
}

enum mapping_state gguf_state(const struct gguf *gguf)
{
    return gguf->mapping.data == NULL ? MAPPING_SOUND
                                      : mapping_state(&gguf->mapping);
}

void gguf_look(const struct gguf *gguf)
{
    if (gguf->mapping.data != NULL)
        mapping_look(&gguf->mapping);
}

size_t gguf_n_tensors(const struct gguf *gguf)
{
    return gguf->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i)
{
    assert(i < gguf->n_tensors);
    return &gguf->tensors[i].tensor;
}

const struct gguf_tensor *gguf_tensor_find(
    const struct gguf *gguf, const char *name)
{
    struct gguf_string string = {name, strlen(name)};
    const struct gguf_entry *found =
        (const void *)kv_map_find(&gguf->tensor_map,
            kv_siphash(gguf->tensor_map.secret, name, string.n), &string);

    return found == NULL ? NULL : &found->tensor;
}
