#include "pool/prefix.h"

#include <assert.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/heap.h"

/* A bucket for each block, rounded up to a power of two: keys are hashes
 * already, so their first bytes choose. */
static uint32_t count_buckets(uint32_t n_blocks)
{
    uint32_t n = 1;

    while (n < n_blocks)
        n *= 2;
    return n;
}

enum kv_status prefix_index_init(struct prefix_index *index, uint32_t n_blocks,
    uint32_t block_tokens, const uint64_t secret[2])
{
    *index = (struct prefix_index){
        .n_blocks = n_blocks,
        .n_buckets = count_buckets(n_blocks),
        .block_tokens = block_tokens,
        .secret = {secret[0], secret[1]},
        .sha256 = EVP_MD_fetch(NULL, "SHA256", NULL),
        .context = EVP_MD_CTX_new(),
    };
    index->entries = kv_calloc(n_blocks, sizeof *index->entries);
    index->buckets = kv_calloc(index->n_buckets, sizeof *index->buckets);
    if (index->entries == NULL || index->buckets == NULL ||
        index->sha256 == NULL || index->context == NULL ||
        EVP_DigestInit_ex2(index->context, index->sha256, NULL) != 1) {
        prefix_index_fini(index);
        return KV_NO_MEMORY;
    }
    memset(index->buckets, 0xFF, index->n_buckets * sizeof *index->buckets);
    return KV_OK;
}

static void drop_tokens(struct prefix_entry *entry)
{
    if (entry->owns_tokens)
        kv_free((void *)(uintptr_t)entry->tokens);
    entry->owns_tokens = false;
    entry->tokens = NULL;
}

void prefix_index_fini(struct prefix_index *index)
{
    for (uint32_t i = 0; index->entries != NULL && i < index->n_blocks; i++)
        drop_tokens(&index->entries[i]);
    kv_free(index->entries);
    kv_free(index->buckets);
    EVP_MD_CTX_free(index->context);
    EVP_MD_free(index->sha256);
    *index = (struct prefix_index){0};
}

/* ---- keys */

bool prefix_root(const struct prefix_index *index, const char *tenant,
    size_t tenant_bytes, struct prefix_key *out)
{
    unsigned n = sizeof out->bytes;

    return HMAC(index->sha256, index->secret, sizeof index->secret,
               (const unsigned char *)tenant, tenant_bytes, out->bytes,
               &n) != NULL;
}

bool prefix_key_after(const struct prefix_index *index,
    const struct prefix_key *parent, const uint32_t *tokens,
    struct prefix_key *out)
{
    return EVP_DigestInit_ex2(index->context, NULL, NULL) == 1 &&
           EVP_DigestUpdate(
               index->context, parent->bytes, sizeof parent->bytes) == 1 &&
           EVP_DigestUpdate(index->context, tokens,
               index->block_tokens * sizeof *tokens) == 1 &&
           EVP_DigestFinal_ex(index->context, out->bytes, NULL) == 1;
}

/* ---- the list */

static uint32_t *bucket_of(
    const struct prefix_index *index, const struct prefix_key *key)
{
    uint32_t hash;

    memcpy(&hash, key->bytes, sizeof hash);
    return &index->buckets[hash & (index->n_buckets - 1)];
}

static uint32_t find_key(
    const struct prefix_index *index, const struct prefix_key *key)
{
    uint32_t block = *bucket_of(index, key);

    while (block != PREFIX_NONE &&
           memcmp(&index->entries[block].key, key, sizeof *key) != 0)
        block = index->entries[block].next;
    return block;
}

uint32_t prefix_find(const struct prefix_index *index,
    const struct prefix_key *key, const uint32_t *tokens)
{
    uint32_t block = find_key(index, key);

    if (block == PREFIX_NONE || memcmp(index->entries[block].tokens, tokens,
                                    index->block_tokens * sizeof *tokens) != 0)
        return PREFIX_NONE;
    return block;
}

static void unlist(struct prefix_index *index, uint32_t block)
{
    struct prefix_entry *entry = &index->entries[block];
    uint32_t *at = bucket_of(index, &entry->key);

    while (*at != block)
        at = &index->entries[*at].next;
    *at = entry->next;
    entry->listed = false;
}

void prefix_seal(struct prefix_index *index, uint32_t block,
    const struct prefix_key *key, const uint32_t *tokens)
{
    struct prefix_entry *entry = &index->entries[block];
    uint32_t *bucket = bucket_of(index, key);

    assert(!entry->sealed);
    *entry = (struct prefix_entry){.key = *key, .sealed = true};
    if (find_key(index, key) != PREFIX_NONE)
        return;
    entry->tokens = tokens;
    entry->listed = true;
    entry->next = *bucket;
    *bucket = block;
}

void prefix_unseal(struct prefix_index *index, uint32_t block)
{
    struct prefix_entry *entry = &index->entries[block];

    if (entry->listed)
        unlist(index, block);
    drop_tokens(entry);
    entry->sealed = false;
}

/* ---- where tokens lie */

void prefix_move_tokens(struct prefix_index *index, uint32_t block,
    uintptr_t from, const uint32_t *to)
{
    struct prefix_entry *entry = &index->entries[block];

    if (!entry->owns_tokens && (uintptr_t)entry->tokens == from)
        entry->tokens = to;
}

void prefix_keep_tokens(
    struct prefix_index *index, uint32_t block, const uint32_t *from)
{
    struct prefix_entry *entry = &index->entries[block];
    size_t n_bytes = index->block_tokens * sizeof *from;
    uint32_t *copy;

    if (entry->owns_tokens || entry->tokens != from)
        return;
    copy = kv_realloc(NULL, n_bytes);
    if (copy == NULL) {
        unlist(index, block);
        entry->tokens = NULL;
        return;
    }
    memcpy(copy, from, n_bytes);
    entry->tokens = copy;
    entry->owns_tokens = true;
}

uint64_t prefix_metadata_bytes(const struct prefix_index *index)
{
    return index->n_blocks * sizeof *index->entries +
           index->n_buckets * sizeof *index->buckets;
}
