/* A file mapped read-only that may be cut short, whose disk may fail, or that
 * somebody may write into, while it is read.
 *
 * Who touches a page of a mapping that the file does not have any more gets
 * SIGBUS, which ends a process. Here the whole mapping becomes zeros instead,
 * for good, and the mapping is lost: the reader goes on without knowing, and
 * who uses what came of it asks mapping_state before. Nothing may be read from
 * a mapping that would be out of bounds if it became zeros.
 *
 * What is written into the file shows in the mapping, and is no fault: who has
 * read something and wants to know whether it was still the file of before
 * looks, and then asks. The file's time of modification tells, which whoever
 * writes sets before the first byte; one who sets it back is not found out.
 *
 *     mapping_init ─> data ──> mapping_fini
 *                       ├─ SIGBUS ─> zeros, cut
 *                       └─ mapping_look ─> written
 *
 * A signal's handler belongs to the process and has no argument. So this is the
 * one module of the engine with state of its own: the table of mappings. The
 * first of them installs the handler; other faults are handed to who was there
 * before. A thread that reads must not block SIGBUS.
 *
 * Any thread. */
#ifndef ENGINE_MAPPING_H
#define ENGINE_MAPPING_H

#include <stddef.h>
#include <time.h>

#define MAPPING_MAX 16 /* at a time, in a process */

enum mapping_state {
    MAPPING_SOUND,
    MAPPING_CUT,     /* short, or its disk failed */
    MAPPING_WRITTEN, /* by somebody, or touched: nobody can tell */
};

struct mapping {
    const unsigned char *data;
    size_t n_bytes;
    int fd;                   /* our own */
    struct timespec modified; /* at the beginning */
    struct mapping_slot *slot;
};

/* The first n_bytes, at least 1, of the file, which may be closed afterwards.
 * 0, or an errno: EMFILE where there are MAPPING_MAX already. */
int mapping_init(struct mapping *mapping, int fd, size_t n_bytes);

/* Nobody reads any more. */
void mapping_fini(struct mapping *mapping);

/* The first that happened to it, for good. */
enum mapping_state mapping_state(const struct mapping *mapping);

/* Asks the system whether the file is as it was at mapping_init. May wait for a
 * file system of the network; else it takes less than a microsecond. */
void mapping_look(const struct mapping *mapping);

#endif
