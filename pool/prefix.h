/* Which full blocks there are, by what they hold.
 *
 *   root of a tenant ──> key of block 0 ──> key of block 1 ──> ...
 *
 *     root   HMAC-SHA-256(the pool's secret, tenant)
 *     key    SHA-256(start of the key of the block before, or of the root |
 *                    tokens, u32 LE)
 *
 * Kept is the start of a key, its first 16 bytes: the rest follows from the
 * start of the one before and the tokens. Who wants two beginnings with one
 * start has to try 2^64 of them, block by block, in the pool itself, and they
 * would be of one tenant.
 *
 * A key stands for a whole beginning of a conversation, not for one block's
 * tokens, so keys and values may be shared wherever keys are equal. Nobody
 * without the secret can make a key, and two tenants never have one in common.
 *
 * A block is sealed when it has become full, by the session that filled it. Of
 * several sealed blocks with one key the first few are listed, and the first is
 * found: when it goes, the next one is. Tokens
 * are not stored here, but for copies of those of which no session is known
 * that has them (see share.c).
 *
 * Thread: the owner's. */
#ifndef POOL_PREFIX_H
#define POOL_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/types.h>

#include "base/map.h"
#include "base/status.h"
#include "pool/observer.h"

#define PREFIX_START_BYTES 16
#define PREFIX_NONE UINT32_MAX

struct prefix_key {
    uint8_t bytes[POOL_KEY_BYTES];
};

struct prefix_start {
    uint8_t bytes[PREFIX_START_BYTES];
};

/* What is known of a block in four bytes; from PREFIX_NEXT on it is listed, and
 * the next of its bucket is this much less. */
enum prefix_link {
    PREFIX_OPEN,     /* not sealed */
    PREFIX_UNLISTED, /* sealed; enough others have its key */
    PREFIX_LAST,     /* listed, and the last of its bucket */
    PREFIX_NEXT,
};

struct prefix_entry {
    struct prefix_start key;
    uint32_t link;
};

/* The caller's memory; fields are for reading only. */
struct prefix_index {
    struct prefix_entry *entries; /* by block; NULL: nothing is shared */
    uint32_t *buckets;            /* as links */
    struct kv_map copies;         /* of tokens, by block */
    uint32_t n_blocks, n_buckets, block_tokens;
    uint64_t secret[2];
    EVP_MD *sha256;
    EVP_MD_CTX *context;
};

/* KV_NO_MEMORY. Zeroed, an index shares nothing and needs no fini. */
enum kv_status prefix_index_init(struct prefix_index *index, uint32_t n_blocks,
    uint32_t block_tokens, const uint64_t secret[2]);
void prefix_index_fini(struct prefix_index *index);

/* The root of a tenant, and the key of a block behind its parent's. false:
 * libcrypto fails, which it does where it has no memory. */
bool prefix_root(const struct prefix_index *index, const char *tenant,
    size_t tenant_bytes, struct prefix_start *out);
bool prefix_key_after(const struct prefix_index *index,
    const struct prefix_start *parent, const uint32_t *tokens,
    struct prefix_key *out);
struct prefix_start prefix_start(const struct prefix_key *key);

/* The first listed block with this key, or PREFIX_NONE. */
uint32_t prefix_find(
    const struct prefix_index *index, const struct prefix_start *key);

/* The block holds what the key says. It is found once it is listed. */
void prefix_seal(
    struct prefix_index *index, uint32_t block, const struct prefix_start *key);

/* Lists sealed blocks, at most PREFIX_FETCHED, those that may be. */
void prefix_list(
    struct prefix_index *index, const uint32_t *blocks, uint32_t n);
/* It no longer does; there is no copy of its tokens. */
void prefix_unseal(struct prefix_index *index, uint32_t block);

static inline bool prefix_is_sealed(
    const struct prefix_index *index, uint32_t block)
{
    return index->entries[block].link != PREFIX_OPEN;
}

static inline bool prefix_is_listed(
    const struct prefix_index *index, uint32_t block)
{
    return index->entries[block].link >= PREFIX_LAST;
}

/* Asks memory for what listing or unsealing these blocks looks at, all at once;
 * at most PREFIX_FETCHED. */
#define PREFIX_FETCHED 16
void prefix_fetch(
    const struct prefix_index *index, const uint32_t *blocks, uint32_t n);

/* Whether it is the one that is found by its key. */
bool prefix_is_found(const struct prefix_index *index, uint32_t block);

/* Keeps a copy of a listed block's tokens; where there is no memory for it, the
 * block is listed no longer. */
void prefix_keep_tokens(
    struct prefix_index *index, uint32_t block, const uint32_t *tokens);
/* The copy, or NULL. */
const uint32_t *prefix_kept_tokens(
    const struct prefix_index *index, uint32_t block);
/* Does without the copy, if there is one. */
void prefix_drop_tokens(struct prefix_index *index, uint32_t block);

uint64_t prefix_metadata_bytes(const struct prefix_index *index);

#endif
