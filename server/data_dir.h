/* The directory that is the server's own.
 *
 *   data_dir/
 *     receipts/     the journal (receipts/journal.h)
 *     signing.key   the key of checkpoints, unless another file is named
 *
 * Thread: the owner's. */
#ifndef SERVER_DATA_DIR_H
#define SERVER_DATA_DIR_H

#include "base/error.h"

/* Makes it (0700) if it is not there; its parent has to be. KV_IO: *error says
 * what is in the way. KV_NO_MEMORY. */
enum kv_status data_dir_open(const char *path, struct kv_error *error);

/* "path/name", to be kv_free'd; NULL: no memory. */
char *data_dir_join(const char *path, const char *name);

#endif
