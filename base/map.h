/* A hash map from bytes to structs of the caller's, through an embedded node.
 *
 * The number of buckets is fixed at init, so that no operation ever pauses to
 * rehash: size it for the most entries there will be. Hashes are keyed
 * (SipHash-1-3), so that nobody who chooses the keys can choose collisions. */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Embed in the mapped struct. */
struct kv_map_node {
    struct kv_map_node *next;
    uint64_t hash;
};

/* Whether the struct that embeds node has this key. */
typedef bool (*kv_map_equal_cb)(
    const struct kv_map_node *node, const void *key);

struct kv_map {
    struct kv_map_node **buckets;
    size_t n_buckets; /* a power of two */
    size_t n_entries;
    uint64_t secret[2];
    kv_map_equal_cb equal;
};

/* secret may be anything that the writer of the keys cannot know; the same one
 * gives the same order of iteration. KV_NO_MEMORY. */
enum kv_status kv_map_init(struct kv_map *map, size_t n_expected,
    const uint64_t secret[2], kv_map_equal_cb equal);

/* Room for one entry more, which keeps lookups O(1) in a map whose size is not
 * known before. KV_NO_MEMORY changes nothing. */
enum kv_status kv_map_grow(struct kv_map *map);

/* The entries are the caller's and are not touched. */
void kv_map_fini(struct kv_map *map);

/* Hashes a key of n_parts byte strings; ("ab", "c") and ("a", "bc") differ. */
struct kv_bytes {
    const void *data;
    size_t n;
};
uint64_t kv_map_hash(
    const struct kv_map *map, const struct kv_bytes *parts, size_t n_parts);

struct kv_map_node *kv_map_find(
    const struct kv_map *map, uint64_t hash, const void *key);

/* The key must not be in the map yet. */
void kv_map_insert(struct kv_map *map, struct kv_map_node *node, uint64_t hash);

/* node must be in the map. */
void kv_map_remove(struct kv_map *map, struct kv_map_node *node);

/* SipHash-1-3 of n bytes (https://www.aumasson.jp/siphash/siphash.pdf, with
 * one compression and three finalisation rounds). */
uint64_t kv_siphash(const uint64_t secret[2], const void *data, size_t n);

#endif
