#include "receipts/replay_keys.h"

#include <string.h>

#include "base/heap.h"
#include "base/list.h"

struct told {
    struct kv_map_node node;
    uint64_t offset;
    bool is_settled;
    uint8_t key[REPLAY_KEY_BYTES];
};

static struct told *told_of(struct kv_map_node *node)
{
    return node != NULL ? KV_LIST_ENTRY(node, struct told, node) : NULL;
}

static bool is_at(const struct kv_map_node *node, const void *key)
{
    return KV_LIST_ENTRY(node, struct told, node)->offset ==
           *(const uint64_t *)key;
}

static uint64_t hash(const struct replay_keys *keys, uint64_t offset)
{
    return kv_siphash(keys->by_offset.secret, &offset, sizeof offset);
}

static struct told *find(const struct replay_keys *keys, uint64_t offset)
{
    return told_of(kv_map_find(&keys->by_offset, hash(keys, offset), &offset));
}

enum kv_status replay_keys_init(
    struct replay_keys *keys, const uint64_t secret[2])
{
    return kv_map_init(&keys->by_offset, 256, secret, is_at);
}

void replay_keys_fini(struct replay_keys *keys)
{
    for (size_t i = 0; i < keys->by_offset.n_buckets; i++)
        while (keys->by_offset.buckets[i] != NULL) {
            struct told *told = told_of(keys->by_offset.buckets[i]);

            kv_map_remove(&keys->by_offset, &told->node);
            kv_free(told);
        }
    kv_map_fini(&keys->by_offset);
}

enum kv_status replay_keys_tell(struct replay_keys *keys, uint64_t offset,
    const uint8_t *key, bool is_shared)
{
    struct told *told = find(keys, offset);

    if (told != NULL && told->is_settled &&
        memcmp(told->key, key, sizeof told->key) != 0)
        return KV_INVALID;
    if (told == NULL) {
        if (kv_map_grow(&keys->by_offset) != KV_OK)
            return KV_NO_MEMORY;
        told = kv_calloc(1, sizeof *told);
        if (told == NULL)
            return KV_NO_MEMORY;
        told->offset = offset;
        kv_map_insert(&keys->by_offset, &told->node, hash(keys, offset));
    }
    memcpy(told->key, key, sizeof told->key);
    told->is_settled = is_shared;
    return KV_OK;
}

bool replay_keys_has(
    const struct replay_keys *keys, uint64_t offset, const uint8_t *key)
{
    const struct told *told = find(keys, offset);

    return told != NULL && memcmp(told->key, key, sizeof told->key) == 0;
}

void replay_keys_unsettle(struct replay_keys *keys, uint64_t offset)
{
    struct told *told = find(keys, offset);

    if (told != NULL)
        told->is_settled = false;
}

void replay_keys_forget(struct replay_keys *keys, uint64_t offset)
{
    struct told *told = find(keys, offset);

    if (told == NULL)
        return;
    kv_map_remove(&keys->by_offset, &told->node);
    kv_free(told);
}
