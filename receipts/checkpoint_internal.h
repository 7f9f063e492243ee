/* What checkpoint.c and cosignature.c share: keys of either role, and notes
 * taken apart. */
#ifndef RECEIPTS_CHECKPOINT_INTERNAL_H
#define RECEIPTS_CHECKPOINT_INTERNAL_H

#include <stdbool.h>

#include "receipts/checkpoint.h"

#define CHECKPOINT_ID_BYTES 4
#define CHECKPOINT_DASH                                                        \
    "\xE2\x80\x94 " /* em dash, space: begins a signature                      \
                     */

/* Other algorithms' signatures are larger; a line is bounded by the note. */
#define CHECKPOINT_LINE_BYTES 8192

/* Bytes of somebody else's text. */
struct checkpoint_span {
    const char *at;
    size_t n;
};

/* false: libsodium has no random bytes. */
bool checkpoint_start(struct kv_error *error);

/* ---- keys */

enum kv_status checkpoint_parse_key(struct checkpoint_key *out,
    enum checkpoint_role role, const char *text, struct kv_error *error);
enum kv_status checkpoint_generate(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *name, struct kv_error *error);
enum kv_status checkpoint_parse_signer(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *text, struct kv_error *error);

/* ---- notes */

/* Its text with the last line end, and its signature lines. */
struct checkpoint_parts {
    struct checkpoint_span text, signatures;
};

enum kv_status checkpoint_split(const void *note, size_t n_bytes,
    struct checkpoint_parts *out, struct kv_error *error);

struct checkpoint_signature {
    struct checkpoint_span name;
    uint8_t bytes[CHECKPOINT_LINE_BYTES]; /* its key's id, then itself */
    size_t n_bytes;
};

/* The next signature line of these; false: it is none. */
bool checkpoint_take_signature(
    struct checkpoint_span *lines, struct checkpoint_signature *out);

/* Whether it says that it is this key's. */
bool checkpoint_is_of(const struct checkpoint_signature *signature,
    const struct checkpoint_key *key);

#endif
