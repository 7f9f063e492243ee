#include "pool/prefix.h"

#include <assert.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/heap.h"
#include "base/list.h"

/* A bucket is a first look; the others of its blocks are one more each. */
#define BLOCKS_PER_BUCKET 3

/* Copies are few, and cost a look at some more where they are not. */
#define BLOCKS_PER_COPY 128

/* Blocks with one key are listed up to so many, since a bucket is walked. */
#define MAX_SAME 4

struct copy {
    struct kv_map_node node; /* its hash is the block: nobody chooses those */
    uint32_t tokens[];
};

static bool is_of_block(const struct kv_map_node *node, const void *key)
{
    const uint32_t *block = key;

    return node->hash == *block;
}

enum kv_status prefix_index_init(struct prefix_index *index, uint32_t n_blocks,
    uint32_t block_tokens, const uint64_t secret[2])
{
    *index = (struct prefix_index){
        .n_blocks = n_blocks,
        .n_buckets = n_blocks / BLOCKS_PER_BUCKET + 1,
        .block_tokens = block_tokens,
        .secret = {secret[0], secret[1]},
        .sha256 = EVP_MD_fetch(NULL, "SHA256", NULL),
        .context = EVP_MD_CTX_new(),
    };
    index->entries = kv_calloc_table(n_blocks, sizeof *index->entries);
    index->buckets = kv_calloc_table(index->n_buckets, sizeof *index->buckets);
    if (index->entries == NULL || index->buckets == NULL ||
        kv_map_init(&index->copies, n_blocks / BLOCKS_PER_COPY, secret,
            is_of_block) != KV_OK ||
        index->sha256 == NULL || index->context == NULL ||
        EVP_DigestInit_ex2(index->context, index->sha256, NULL) != 1) {
        prefix_index_fini(index);
        return KV_NO_MEMORY;
    }
    for (uint32_t i = 0; i < index->n_buckets; i++)
        index->buckets[i] = PREFIX_LAST;
    return KV_OK;
}

static void free_copies(struct kv_map *copies)
{
    for (size_t i = 0; copies->buckets != NULL && i < copies->n_buckets; i++)
        while (copies->buckets[i] != NULL) {
            struct kv_map_node *node = copies->buckets[i];

            copies->buckets[i] = node->next;
            kv_free(node);
        }
    kv_map_fini(copies);
}

void prefix_index_fini(struct prefix_index *index)
{
    free_copies(&index->copies);
    kv_free(index->entries);
    kv_free(index->buckets);
    EVP_MD_CTX_free(index->context);
    EVP_MD_free(index->sha256);
    *index = (struct prefix_index){0};
}

/* ---- keys */

bool prefix_root(const struct prefix_index *index, const char *tenant,
    size_t tenant_bytes, struct prefix_start *out)
{
    struct prefix_key root;
    unsigned n = sizeof root.bytes;

    if (HMAC(index->sha256, index->secret, sizeof index->secret,
            (const unsigned char *)tenant, tenant_bytes, root.bytes,
            &n) == NULL)
        return false;
    *out = prefix_start(&root);
    return true;
}

struct prefix_start prefix_start(const struct prefix_key *key)
{
    struct prefix_start start;

    memcpy(start.bytes, key->bytes, sizeof start.bytes);
    return start;
}

bool prefix_key_after(const struct prefix_index *index,
    const struct prefix_start *parent, const uint32_t *tokens,
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

/* Keys are hashes already, so their first bytes choose. */
static uint32_t *bucket_of(
    const struct prefix_index *index, const struct prefix_start *key)
{
    uint32_t hash;

    memcpy(&hash, key->bytes, sizeof hash);
    return &index->buckets[(uint64_t)hash * index->n_buckets >> 32];
}

uint32_t prefix_find(
    const struct prefix_index *index, const struct prefix_start *key)
{
    uint32_t link = *bucket_of(index, key);

    while (link != PREFIX_LAST) {
        uint32_t block = link - PREFIX_NEXT;

        if (memcmp(&index->entries[block].key, key, sizeof *key) == 0)
            return block;
        link = index->entries[block].link;
    }
    return PREFIX_NONE;
}

static void unlist(struct prefix_index *index, uint32_t block)
{
    struct prefix_entry *entry = &index->entries[block];
    uint32_t *at = bucket_of(index, &entry->key);

    while (*at != PREFIX_NEXT + block)
        at = &index->entries[*at - PREFIX_NEXT].link;
    *at = entry->link;
    entry->link = PREFIX_UNLISTED;
}

void prefix_seal(
    struct prefix_index *index, uint32_t block, const struct prefix_start *key)
{
    assert(!prefix_is_sealed(index, block));
    index->entries[block] =
        (struct prefix_entry){.key = *key, .link = PREFIX_UNLISTED};
}

static bool is_on_the_way(uint32_t link, uint32_t block)
{
    return link != PREFIX_LAST && link != PREFIX_NEXT + block;
}

/* All go from their buckets towards their blocks, a step a round, and memory is
 * asked for what each will look at in the next: so all of them wait together.
 */
static void walk_buckets(
    const struct prefix_index *index, const uint32_t *blocks, uint32_t n)
{
    uint32_t links[PREFIX_FETCHED], n_walking;

    for (uint32_t i = 0; i < n; i++)
        links[i] = prefix_is_sealed(index, blocks[i])
                       ? *bucket_of(index, &index->entries[blocks[i]].key)
                       : PREFIX_LAST;
    do {
        n_walking = 0;
        for (uint32_t i = 0; i < n; i++)
            if (is_on_the_way(links[i], blocks[i])) {
                __builtin_prefetch(&index->entries[links[i] - PREFIX_NEXT], 1);
                n_walking++;
            }
        for (uint32_t i = 0; i < n; i++)
            if (is_on_the_way(links[i], blocks[i]))
                links[i] = index->entries[links[i] - PREFIX_NEXT].link;
    } while (n_walking > 0);
}

void prefix_fetch(
    const struct prefix_index *index, const uint32_t *blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        __builtin_prefetch(&index->entries[blocks[i]], 1);
    for (uint32_t i = 0; i < n; i++)
        if (prefix_is_sealed(index, blocks[i]))
            __builtin_prefetch(
                bucket_of(index, &index->entries[blocks[i]].key), 1);
    walk_buckets(index, blocks, n);
}

static void list(struct prefix_index *index, uint32_t block)
{
    struct prefix_entry *entry = &index->entries[block];
    uint32_t *at = bucket_of(index, &entry->key);
    int n_same = 0;

    /* Behind those with the same key, which follow one another, or else last:
     * what is the oldest goes first, as a rule, and is found first then. */
    while (*at != PREFIX_LAST && n_same < MAX_SAME) {
        struct prefix_entry *other = &index->entries[*at - PREFIX_NEXT];
        bool is_same = memcmp(&other->key, &entry->key, sizeof entry->key) == 0;

        if (n_same > 0 && !is_same)
            break;
        n_same += is_same;
        at = &other->link;
    }
    if (n_same == MAX_SAME)
        return;
    entry->link = *at;
    *at = PREFIX_NEXT + block;
}

void prefix_list(struct prefix_index *index, const uint32_t *blocks, uint32_t n)
{
    prefix_fetch(index, blocks, n);
    for (uint32_t i = 0; i < n; i++)
        list(index, blocks[i]);
}

void prefix_unseal(struct prefix_index *index, uint32_t block)
{
    if (prefix_is_listed(index, block))
        unlist(index, block);
    index->entries[block].link = PREFIX_OPEN;
}

bool prefix_is_found(const struct prefix_index *index, uint32_t block)
{
    return prefix_is_listed(index, block) &&
           prefix_find(index, &index->entries[block].key) == block;
}

/* ---- copies of tokens */

static struct copy *find_copy(const struct prefix_index *index, uint32_t block)
{
    struct kv_map_node *node = index->copies.n_entries > 0
                                   ? kv_map_find(&index->copies, block, &block)
                                   : NULL;

    return node == NULL ? NULL : KV_LIST_ENTRY(node, struct copy, node);
}

void prefix_keep_tokens(
    struct prefix_index *index, uint32_t block, const uint32_t *tokens)
{
    size_t n_bytes = index->block_tokens * sizeof *tokens;
    struct copy *copy;

    if (!prefix_is_listed(index, block))
        return;
    copy = kv_realloc(NULL, sizeof *copy + n_bytes);
    if (copy == NULL) {
        unlist(index, block);
        return;
    }
    memcpy(copy->tokens, tokens, n_bytes);
    kv_map_insert(&index->copies, &copy->node, block);
}

const uint32_t *prefix_kept_tokens(
    const struct prefix_index *index, uint32_t block)
{
    const struct copy *copy = find_copy(index, block);

    return copy == NULL ? NULL : copy->tokens;
}

void prefix_drop_tokens(struct prefix_index *index, uint32_t block)
{
    struct copy *copy = find_copy(index, block);

    if (copy == NULL)
        return;
    kv_map_remove(&index->copies, &copy->node);
    kv_free(copy);
}

uint64_t prefix_metadata_bytes(const struct prefix_index *index)
{
    return index->n_blocks * sizeof *index->entries +
           index->n_buckets * sizeof *index->buckets +
           index->copies.n_buckets * sizeof *index->copies.buckets +
           index->copies.n_entries *
               (sizeof(struct copy) + index->block_tokens * sizeof(uint32_t));
}
