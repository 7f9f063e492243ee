/* A file that is there whole or not at all: written beside its name, synced,
 * and put in place at the end.
 *
 *   out_file_open ─> write to ->stream ─> out_file_commit
 *                                     └─> out_file_abandon
 *
 * Thread: one. */
#ifndef CLI_OUT_FILE_H
#define CLI_OUT_FILE_H

#include <stdio.h>

#include "base/error.h"

struct out_file {
    FILE *stream;
    char *path, *unfinished;
};

/* With these permissions, for a new file and an old one. KV_IO, KV_NO_MEMORY:
 * *error names the file. */
enum kv_status out_file_open(struct out_file *file, const char *path,
    unsigned permissions, struct kv_error *error);

/* KV_IO: it could not be written, and what was there before still is. */
enum kv_status out_file_commit(struct out_file *file, struct kv_error *error);
void out_file_abandon(struct out_file *file);

#endif
