/* What a witness remembers: of each ledger the last checkpoint that it
 * cosigned, and the key that signed it. A file of JSON, written whole or not at
 * all, and synced before anybody is shown what was cosigned:
 *
 *   {"version": 1, "ledgers": {"kvpool/5b0d..e1": {"key": "...", "note":
 * "..."}}}
 *
 * A lock beside it keeps a second witness away while one is at work.
 *
 * Thread: one. */
#ifndef CLI_WITNESS_STATE_H
#define CLI_WITNESS_STATE_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"

struct witness_state {
    char *path;
    int lock;
    json_t *json;
};

/* Reads it; where there is none, nothing is remembered yet. KV_BUSY: another
 * witness has it. KV_INVALID: it is no such file. KV_IO, KV_NO_MEMORY. */
enum kv_status witness_state_open(
    struct witness_state *state, const char *path, struct kv_error *error);
void witness_state_close(struct witness_state *state);

/* The key and the cosigned note of this ledger, borrowed until the next put.
 * false: it is not known. */
bool witness_state_find(const struct witness_state *state, const char *origin,
    const char **key, const char **note);

size_t witness_state_count(const struct witness_state *state);

/* Remembers them instead, for good. KV_IO, KV_NO_MEMORY: the file is as it was,
 * and what is in memory is not to be used. */
enum kv_status witness_state_put(struct witness_state *state,
    const char *origin, const char *key, const char *note, size_t n_note,
    struct kv_error *error);

#endif
