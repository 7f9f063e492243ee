/* The key that checkpoints are signed with: from a file, or made. */
#ifndef SERVER_SIGNING_KEY_H
#define SERVER_SIGNING_KEY_H

#include "base/error.h"
#include "receipts/checkpoint.h"

/* The signer that the file at `path` holds, in the text form of signed notes.
 * Where there is no such file, a new key with this name is made and written
 * there, for the owner's eyes only; the log says so. With path "" a new key is
 * made and kept nowhere.
 *
 * KV_INVALID: the file holds no key. KV_IO: it cannot be read or made. *error
 * names the file, and never what is in it. */
enum kv_status signing_key_load(struct checkpoint_signer *out, const char *path,
    const char *name, struct kv_error *error);

#endif
