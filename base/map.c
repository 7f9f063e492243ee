#include "base/map.h"

#include <string.h>

#include "base/heap.h"

static uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

uint64_t kv_siphash(const uint64_t secret[2], const void *data, size_t n)
{
    uint64_t v[4] = {
        secret[0] ^ 0x736f6d6570736575u,
        secret[1] ^ 0x646f72616e646f6du,
        secret[0] ^ 0x6c7967656e657261u,
        secret[1] ^ 0x7465646279746573u,
    };
    const unsigned char *at = data;
    uint64_t word;

    for (size_t left = n; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = 0;
    if (n % 8 > 0)
        memcpy(&word, at, n % 8);
    word |= (uint64_t)n << 56;
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

enum kv_status kv_map_init(struct kv_map *map, size_t n_expected,
    const uint64_t secret[2], kv_map_equal_cb equal)
{
    size_t n_buckets = 8;

    while (n_buckets < n_expected)
        n_buckets *= 2;
    map->buckets = kv_calloc_table(n_buckets, sizeof *map->buckets);
    if (map->buckets == NULL)
        return KV_NO_MEMORY;
    map->n_buckets = n_buckets;
    map->n_entries = 0;
    map->secret[0] = secret[0];
    map->secret[1] = secret[1];
    map->equal = equal;
    return KV_OK;
}

enum kv_status kv_map_grow(struct kv_map *map)
{
    struct kv_map larger;
    enum kv_status status;

    if (map->n_entries < map->n_buckets)
        return KV_OK;
    status = kv_map_init(&larger, 2 * map->n_buckets, map->secret, map->equal);
    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < map->n_buckets; i++)
        for (struct kv_map_node *node = map->buckets[i], *next; node != NULL;
             node = next) {
            next = node->next;
            kv_map_insert(&larger, node, node->hash);
        }
    kv_map_fini(map);
    *map = larger;
    return KV_OK;
}

void kv_map_fini(struct kv_map *map)
{
    kv_free(map->buckets);
    map->buckets = NULL;
}

uint64_t kv_map_hash(
    const struct kv_map *map, const struct kv_bytes *parts, size_t n_parts)
{
    uint64_t secret[2] = {map->secret[0], map->secret[1]};

    /* Chaining through the secret keeps the boundaries between parts. */
    for (size_t i = 0; i < n_parts; i++)
        secret[0] = kv_siphash(secret, parts[i].data, parts[i].n);
    return secret[0];
}

struct kv_map_node *kv_map_find(
    const struct kv_map *map, uint64_t hash, const void *key)
{
    struct kv_map_node *node = map->buckets[hash & (map->n_buckets - 1)];

    while (node != NULL && !(node->hash == hash && map->equal(node, key)))
        node = node->next;
    return node;
}

void kv_map_insert(struct kv_map *map, struct kv_map_node *node, uint64_t hash)
{
    struct kv_map_node **bucket = &map->buckets[hash & (map->n_buckets - 1)];

    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    map->n_entries++;
}

void kv_map_remove(struct kv_map *map, struct kv_map_node *node)
{
    struct kv_map_node **at = &map->buckets[node->hash & (map->n_buckets - 1)];

    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    map->n_entries--;
}
