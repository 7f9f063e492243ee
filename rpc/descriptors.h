/* An index over a FileDescriptorSet: which file declares a name.
 *
 * Private to rpc/. Thread: any, once open. */
#ifndef RPC_DESCRIPTORS_H
#define RPC_DESCRIPTORS_H

#include <stddef.h>

#include "base/status.h"

struct descriptors;

/* The bytes are borrowed for the index's life.
 * KV_INVALID: not a FileDescriptorSet. KV_NO_MEMORY. */
enum kv_status descriptors_open(
    struct descriptors **out, const unsigned char *bytes, size_t n);
void descriptors_close(struct descriptors *index); /* NULL is fine */

/* Files are numbered; DESCRIPTORS_NONE is none. */
#define DESCRIPTORS_NONE ((size_t)-1)

size_t descriptors_n_files(const struct descriptors *index);
size_t descriptors_find_file(const struct descriptors *index, const char *name);

/* By full name without a leading dot: messages, fields, oneofs, enums and their
 * values, extensions, services, methods. */
size_t descriptors_find_symbol(
    const struct descriptors *index, const char *symbol);

/* The encoded FileDescriptorProto. Borrowed. */
const unsigned char *descriptors_file(
    const struct descriptors *index, size_t file, size_t *n);

/* Fills files, which has room for all, with file and all that it imports,
 * directly or not, each once; returns how many. */
size_t descriptors_with_imports(
    const struct descriptors *index, size_t file, size_t *files);

/* The full name of the nth service; NULL behind the last. Borrowed. */
const char *descriptors_service(const struct descriptors *index, size_t nth);

#endif
