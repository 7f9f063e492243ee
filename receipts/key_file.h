/* A private key in a file, for its owner's eyes only: the text form of signed
 * notes and a line end. */
#ifndef RECEIPTS_KEY_FILE_H
#define RECEIPTS_KEY_FILE_H

#include <stdbool.h>

#include "receipts/checkpoint.h"

/* What its reader may want to say. */
struct key_file_news {
    bool made;        /* there was none: a new key was written */
    bool open_to_all; /* every user of the machine may read it */
};

/* The signer that the file holds. Where there is no such file, a new key of
 * this role and name is made and written there, mode 0600.
 *
 * KV_INVALID: the file holds no such key. KV_IO: it cannot be read or made.
 * *error names the file, and never what is in it. */
enum kv_status key_file_load(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *path, const char *name,
    struct key_file_news *news, struct kv_error *error);

#endif
