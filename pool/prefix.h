/* Which full blocks there are, by what they hold.
 *
 *   root of a tenant ──> key of block 0 ──> key of block 1 ──> ...
 *
 *     root   HMAC-SHA-256(the pool's secret, tenant)
 *     key    SHA-256(key of the block before, or root | tokens, u32 LE)
 *
 * A key stands for a whole beginning of a conversation, not for one block's
 * tokens, so keys and values may be shared wherever keys are equal. Nobody
 * without the secret can make a key, and two tenants never have one in common.
 *
 * A block is sealed when it has become full, by the session that filled it. Of
 * several sealed blocks with one key, the first is listed, and found. On a hit
 * the tokens are compared as well; they are not stored twice: those of a block
 * lie in the session that sealed it, and in a copy once that one has given the
 * block up and others have not.
 *
 * Thread: the owner's. */
#ifndef POOL_PREFIX_H
#define POOL_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/types.h>

#include "base/status.h"
#include "pool/observer.h"

#define PREFIX_KEY_BYTES POOL_KEY_BYTES
#define PREFIX_NONE UINT32_MAX

struct prefix_key {
    uint8_t bytes[PREFIX_KEY_BYTES];
};

struct prefix_entry {
    struct prefix_key key;
    const uint32_t *tokens; /* NULL: not sealed, or not to be found */
    uint32_t next;          /* of its bucket */
    bool sealed, listed;
    bool owns_tokens; /* they are a copy */
};

/* The caller's memory; fields are for reading only. */
struct prefix_index {
    struct prefix_entry *entries; /* by block; NULL: nothing is shared */
    uint32_t *buckets;
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
    size_t tenant_bytes, struct prefix_key *out);
bool prefix_key_after(const struct prefix_index *index,
    const struct prefix_key *parent, const uint32_t *tokens,
    struct prefix_key *out);

/* The listed block with this key and these tokens, or PREFIX_NONE. */
uint32_t prefix_find(const struct prefix_index *index,
    const struct prefix_key *key, const uint32_t *tokens);

/* The block holds what the key says; its tokens stay where they are until
 * prefix_move_tokens or prefix_keep_tokens. */
void prefix_seal(struct prefix_index *index, uint32_t block,
    const struct prefix_key *key, const uint32_t *tokens);
/* It no longer does. */
void prefix_unseal(struct prefix_index *index, uint32_t block);

/* The tokens that lay at `from` lie at `to` now, if they are this block's. */
void prefix_move_tokens(struct prefix_index *index, uint32_t block,
    uintptr_t from, const uint32_t *to);

/* The tokens at `from` go, if they are this block's, which lives on: it has a
 * copy from here, or is found no longer where there is no memory for one. */
void prefix_keep_tokens(
    struct prefix_index *index, uint32_t block, const uint32_t *from);

uint64_t prefix_metadata_bytes(const struct prefix_index *index);

#endif
