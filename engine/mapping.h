/* A file mapped read-only that may be cut short, or whose disk may fail, while
 * it is read.
 *
 * Who touches a page of a mapping that the file does not have any more gets
 * SIGBUS, which ends a process. Here the whole mapping becomes zeros instead,
 * for good, and the mapping is lost: the reader goes on without knowing, and
 * who uses what came of it asks mapping_is_lost before. Nothing may be read
 * from a mapping that would be out of bounds if it became zeros.
 *
 *     mapping_init ─> data ──> mapping_fini
 *                       └─ SIGBUS ─> zeros, is lost
 *
 * A signal's handler belongs to the process and has no argument. So this is the
 * one module of the engine with state of its own: the table of mappings. The
 * first of them installs the handler; other faults are handed to who was there
 * before. A thread that reads must not block SIGBUS.
 *
 * Any thread. */
#ifndef ENGINE_MAPPING_H
#define ENGINE_MAPPING_H

#include <stdbool.h>
#include <stddef.h>

#define MAPPING_MAX 16 /* at a time, in a process */

struct mapping {
    const unsigned char *data;
    size_t n_bytes;
    struct mapping_slot *slot;
};

/* The first n_bytes, at least 1, of the file, which may be closed afterwards.
 * 0, or an errno: EMFILE where there are MAPPING_MAX already. */
int mapping_init(struct mapping *mapping, int fd, size_t n_bytes);

/* Nobody reads any more. */
void mapping_fini(struct mapping *mapping);

bool mapping_is_lost(const struct mapping *mapping);

#endif
