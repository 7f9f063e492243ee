#include "rpc/descriptors.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <google/protobuf/descriptor.pb-c.h>

#include "base/heap.h"
#include "rpc/proto.h"

typedef Google__Protobuf__FileDescriptorProto file_proto;
typedef Google__Protobuf__DescriptorProto message_proto;
typedef Google__Protobuf__EnumDescriptorProto enum_proto;
typedef Google__Protobuf__ServiceDescriptorProto service_proto;

struct file {
    const unsigned char *bytes;
    size_t n;
    file_proto *proto;
};

struct symbol {
    char *name;
    size_t file;
    bool is_service;
};

struct descriptors {
    struct file *files;
    size_t n_files;
    struct symbol *symbols; /* sorted by name */
    size_t n_symbols, max_symbols;
};

/* ---- wire format */

/* The varint at *at, which moves behind it. */
static bool read_varint(
    const unsigned char **at, const unsigned char *end, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && *at < end; shift += 7) {
        value |= (uint64_t)(**at & 0x7f) << shift;
        if ((*(*at)++ & 0x80) == 0) {
            *out = value;
            return true;
        }
    }
    return false;
}

/* ---- the names in a file */

/* descriptor.proto is proto2: what is not set is NULL. */
static const char *text_of(const char *text)
{
    return text != NULL ? text : "";
}

static char *join(const char *scope, const char *name)
{
    size_t n = strlen(scope) + strlen(name) + 2;
    char *full = kv_calloc(n, 1);

    if (full != NULL)
        snprintf(full, n, "%s%s%s", scope, scope[0] != '\0' ? "." : "", name);
    return full;
}

static bool make_room(struct descriptors *index)
{
    size_t max = index->max_symbols * 2 + 64;
    struct symbol *symbols;

    if (index->n_symbols < index->max_symbols)
        return true;
    symbols = kv_realloc(index->symbols, max * sizeof *symbols);
    if (symbols == NULL)
        return false;
    index->symbols = symbols;
    index->max_symbols = max;
    return true;
}

/* The symbol's full name, owned by the index; NULL when there is no memory. */
static const char *add_symbol(struct descriptors *index, const char *scope,
    const char *name, bool is_service)
{
    char *full;

    if (!make_room(index))
        return NULL;
    full = join(scope, text_of(name));
    if (full == NULL)
        return NULL;
    index->symbols[index->n_symbols++] =
        (struct symbol){full, index->n_files - 1, is_service};
    return full;
}

/* Values are named beside their enum, not within it. */
static bool add_enum(
    struct descriptors *index, const char *scope, const enum_proto *proto)
{
    bool ok = add_symbol(index, scope, proto->name, false) != NULL;

    for (size_t i = 0; ok && i < proto->n_value; i++)
        ok = add_symbol(index, scope, proto->value[i]->name, false) != NULL;
    return ok;
}

static bool add_service(
    struct descriptors *index, const char *scope, const service_proto *proto)
{
    const char *full = add_symbol(index, scope, proto->name, true);
    bool ok = full != NULL;

    for (size_t i = 0; ok && i < proto->n_method; i++)
        ok = add_symbol(index, full, proto->method[i]->name, false) != NULL;
    return ok;
}

/* Recursion follows the nesting of our own descriptors. */
static bool add_message(
    struct descriptors *index, const char *scope, const message_proto *proto)
{
    const char *full = add_symbol(index, scope, proto->name, false);
    bool ok = full != NULL;

    for (size_t i = 0; ok && i < proto->n_field; i++)
        ok = add_symbol(index, full, proto->field[i]->name, false) != NULL;
    for (size_t i = 0; ok && i < proto->n_oneof_decl; i++)
        ok = add_symbol(index, full, proto->oneof_decl[i]->name, false) != NULL;
    for (size_t i = 0; ok && i < proto->n_extension; i++)
        ok = add_symbol(index, full, proto->extension[i]->name, false) != NULL;
    for (size_t i = 0; ok && i < proto->n_enum_type; i++)
        ok = add_enum(index, full, proto->enum_type[i]);
    for (size_t i = 0; ok && i < proto->n_nested_type; i++)
        ok = add_message(index, full, proto->nested_type[i]);
    return ok;
}

static bool add_names(struct descriptors *index, const file_proto *proto)
{
    const char *scope = text_of(proto->package);
    bool ok = true;

    for (size_t i = 0; ok && i < proto->n_message_type; i++)
        ok = add_message(index, scope, proto->message_type[i]);
    for (size_t i = 0; ok && i < proto->n_enum_type; i++)
        ok = add_enum(index, scope, proto->enum_type[i]);
    for (size_t i = 0; ok && i < proto->n_service; i++)
        ok = add_service(index, scope, proto->service[i]);
    for (size_t i = 0; ok && i < proto->n_extension; i++)
        ok = add_symbol(index, scope, proto->extension[i]->name, false) != NULL;
    return ok;
}

/* ---- opening */

static enum kv_status add_file(
    struct descriptors *index, const unsigned char *bytes, size_t n)
{
    struct file *files =
        kv_realloc(index->files, (index->n_files + 1) * sizeof *files);
    file_proto *proto;

    if (files == NULL)
        return KV_NO_MEMORY;
    index->files = files;
    proto = google__protobuf__file_descriptor_proto__unpack(
        RPC_PROTO_ALLOCATOR, n, bytes);
    if (proto == NULL)
        return KV_INVALID;
    files[index->n_files++] = (struct file){bytes, n, proto};
    return add_names(index, proto) ? KV_OK : KV_NO_MEMORY;
}

/* A FileDescriptorSet is field 1, again and again. */
static enum kv_status read_files(
    struct descriptors *index, const unsigned char *bytes, size_t n)
{
    const unsigned char *at = bytes, *end = bytes + n;
    enum kv_status status = KV_OK;
    uint64_t tag, length;

    while (status == KV_OK && at < end) {
        if (!read_varint(&at, end, &tag) || tag != (1 << 3 | 2) ||
            !read_varint(&at, end, &length) || length > (size_t)(end - at))
            return KV_INVALID;
        status = add_file(index, at, (size_t)length);
        at += length;
    }
    return status;
}

static int compare(const void *a, const void *b)
{
    const struct symbol *left = a, *right = b;

    return strcmp(left->name, right->name);
}

enum kv_status descriptors_open(
    struct descriptors **out, const unsigned char *bytes, size_t n)
{
    struct descriptors *index = kv_calloc(1, sizeof *index);
    enum kv_status status;

    if (index == NULL)
        return KV_NO_MEMORY;
    status = read_files(index, bytes, n);
    if (status != KV_OK) {
        descriptors_close(index);
        return status;
    }
    qsort(index->symbols, index->n_symbols, sizeof *index->symbols, compare);
    *out = index;
    return KV_OK;
}

void descriptors_close(struct descriptors *index)
{
    if (index == NULL)
        return;
    for (size_t i = 0; i < index->n_files; i++)
        google__protobuf__file_descriptor_proto__free_unpacked(
            index->files[i].proto, RPC_PROTO_ALLOCATOR);
    for (size_t i = 0; i < index->n_symbols; i++)
        kv_free(index->symbols[i].name);
    kv_free(index->files);
    kv_free(index->symbols);
    kv_free(index);
}

/* ---- finding */

size_t descriptors_n_files(const struct descriptors *index)
{
    return index->n_files;
}

size_t descriptors_find_file(const struct descriptors *index, const char *name)
{
    for (size_t i = 0; i < index->n_files; i++) {
        if (strcmp(text_of(index->files[i].proto->name), name) == 0)
            return i;
    }
    return DESCRIPTORS_NONE;
}

size_t descriptors_find_symbol(
    const struct descriptors *index, const char *name)
{
    const struct symbol key = {.name = RPC_PROTO_TEXT(name)};
    const struct symbol *found = NULL;

    if (index->n_symbols > 0)
        found = bsearch(&key, index->symbols, index->n_symbols,
            sizeof *index->symbols, compare);
    return found != NULL ? found->file : DESCRIPTORS_NONE;
}

const unsigned char *descriptors_file(
    const struct descriptors *index, size_t file, size_t *n)
{
    *n = index->files[file].n;
    return index->files[file].bytes;
}

static bool is_among(const size_t *files, size_t n, size_t file)
{
    for (size_t i = 0; i < n; i++) {
        if (files[i] == file)
            return true;
    }
    return false;
}

size_t descriptors_with_imports(
    const struct descriptors *index, size_t file, size_t *files)
{
    size_t n = 1, import;
    const file_proto *proto;

    files[0] = file;
    for (size_t i = 0; i < n; i++) { /* n grows while we go */
        proto = index->files[files[i]].proto;
        for (size_t k = 0; k < proto->n_dependency; k++) {
            import = descriptors_find_file(index, proto->dependency[k]);
            if (import != DESCRIPTORS_NONE && !is_among(files, n, import))
                files[n++] = import;
        }
    }
    return n;
}

const char *descriptors_service(const struct descriptors *index, size_t nth)
{
    for (size_t i = 0; i < index->n_symbols; i++) {
        if (index->symbols[i].is_service && nth-- == 0)
            return index->symbols[i].name;
    }
    return NULL;
}
