/* A secret that an operator keeps in a file: a token, a password. Read anew
 * whenever it is needed, so that a new one takes effect without a restart;
 * never logged, and no failure tells a byte of it. */
#ifndef SINKS_SECRET_H
#define SINKS_SECRET_H

#include "base/error.h"

#define SECRET_BYTES 8192

struct secret {
    char text[SECRET_BYTES + 1];
};

/* The file's one line, without blanks and line ends around it. KV_IO: it cannot
 * be read; KV_INVALID: it is empty, too long, or has a byte that is not visible
 * ASCII. Reads the disk: not on the owner's thread. */
enum kv_status secret_read(
    struct secret *out, const char *path, struct kv_error *error);

/* Leaves nothing of it in memory. */
void secret_wipe(struct secret *secret);

/* Whether a file that the settings name can be read now. KV_IO. */
enum kv_status secret_check_file(
    const char *setting, const char *path, struct kv_error *error);

#endif
