/* Checkpoints: "this ledger has so many receipts, and this is their hash", said
 * in a form that others understand and signed.
 *
 *     kvpool/5b0d..e1                                  origin
 *     20852163                                         tree size
 *     CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=     root
 *
 *     — kvpool/5b0d..e1 Az3grlgtzPICa5OS8npVmf1M...    key name, signature
 *
 * The format is C2SP's tlog-checkpoint, a signed note, with Ed25519. Keys have
 * the text forms of signed notes too:
 *
 *     verifier  NAME+HEX OF ID+BASE64(0x01 | public key)
 *     signer    PRIVATE+KEY+NAME+HEX OF ID+BASE64(0x01 | seed)
 *
 * and the id is the start of SHA-256(NAME | "\n" | 0x01 | public key).
 *
 * Parsing is strict and bounded; every function takes any bytes.
 *
 * Thread: any. */
#ifndef RECEIPTS_CHECKPOINT_H
#define RECEIPTS_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "receipts/merkle.h"

#define CHECKPOINT_NAME_BYTES 128  /* of an origin, or of a key, at most */
#define CHECKPOINT_NOTE_BYTES 1024 /* of a note of ours */
#define CHECKPOINT_MAX_NOTE_BYTES 65536
#define CHECKPOINT_MAX_SIGNATURES 32
#define CHECKPOINT_KEY_BYTES 256 /* of a key as text, its NUL included */

struct checkpoint {
    char origin[CHECKPOINT_NAME_BYTES + 1];
    uint64_t tree_size;
    struct merkle_hash root;
};

/* What a key is for: the number stands in its text, and in its id. */
enum checkpoint_role {
    CHECKPOINT_LOG = 0x01,     /* signs what its own ledger says */
    CHECKPOINT_WITNESS = 0x04, /* cosigns it: see cosignature.h */
};

/* Whom to believe. */
struct checkpoint_key {
    char name[CHECKPOINT_NAME_BYTES + 1];
    uint8_t public_key[32];
    uint8_t id[4];
    uint8_t role; /* enum checkpoint_role */
};

/* Who signs. Secret: checkpoint_signer_fini wipes it. */
struct checkpoint_signer {
    struct checkpoint_key key;
    uint8_t seed[32];
    uint8_t secret[64];
};

/* ---- keys, here of ledgers. KV_INVALID: *error says what is wrong, without
 * the secret. */

struct checkpoint_key_text {
    char s[CHECKPOINT_KEY_BYTES];
};

enum kv_status checkpoint_key_parse(
    struct checkpoint_key *out, const char *text, struct kv_error *error);
struct checkpoint_key_text checkpoint_key_format(
    const struct checkpoint_key *key);

/* A new key. KV_INVALID: the name is empty, too long, or has spaces, control
 * characters or a plus. KV_IO: the library of the cryptography cannot start. */
enum kv_status checkpoint_signer_generate(
    struct checkpoint_signer *out, const char *name, struct kv_error *error);
enum kv_status checkpoint_signer_parse(
    struct checkpoint_signer *out, const char *text, struct kv_error *error);
/* To be wiped by the caller, as the signer. */
struct checkpoint_key_text checkpoint_signer_format(
    const struct checkpoint_signer *signer);
void checkpoint_signer_fini(struct checkpoint_signer *signer);
void checkpoint_wipe(void *secret, size_t n_bytes);

/* ---- notes */

/* The origin of this ledger's checkpoints: "kvpool/" and its pool_id. */
struct checkpoint_origin {
    char s[CHECKPOINT_NAME_BYTES + 1];
};
struct checkpoint_origin checkpoint_origin_of(const uint8_t pool_id[16]);

struct checkpoint_note {
    size_t n_bytes;
    char bytes[CHECKPOINT_NOTE_BYTES];
};

/* The origin is a name as above. */
void checkpoint_sign(const struct checkpoint_signer *signer,
    const struct checkpoint *checkpoint, struct checkpoint_note *out);

/* What the note says, whoever says it. KV_INVALID: it is no checkpoint. */
enum kv_status checkpoint_parse(const void *note, size_t n_bytes,
    struct checkpoint *out, struct kv_error *error);

/* The same, said by the holder of this key. Signatures of other keys may stand
 * beside.
 *   KV_INVALID    no checkpoint, or a signature of the key that is not right
 *   KV_NOT_FOUND  the key has not signed it
 *   KV_IO         the library of the cryptography cannot start */
enum kv_status checkpoint_verify(const void *note, size_t n_bytes,
    const struct checkpoint_key *key, struct checkpoint *out,
    struct kv_error *error);

#endif
