#include "receipts/replay.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sys/random.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "base/utf8.h"
#include "receipts/replay_keys.h"

/* One who holds blocks; goes with the last of them. */
struct holder {
    struct kv_map_node node;
    struct kv_list holdings;
    uint64_t n_holdings;
    size_t tenant_bytes, id_bytes;
    char name[]; /* tenant, then id */
};

/* A block of one holder. A block that several hold is in the map as often. */
struct holding {
    struct kv_map_node node;
    struct kv_list link;
    struct holder *holder;
    uint64_t offset;
    bool since_free; /* all holders are known: it was free once */
};

struct replay {
    struct kv_map blocks, holders;
    struct replay_keys keys;
    uint64_t block_bytes; /* 0: not known */
    uint64_t n_used;
    bool complete;
};

/* A name in words; a value. What is not fit to be printed is not. */
struct name_text {
    char s[288];
};

static bool is_printable(const char *name, size_t n_bytes)
{
    return n_bytes <= 128 && kv_utf8_valid(name, n_bytes) &&
           !kv_utf8_has_control(name, n_bytes);
}

static struct name_text name_text(
    const char *tenant, size_t tenant_bytes, const char *id, size_t id_bytes)
{
    struct name_text text;

    if (!is_printable(id, id_bytes) || !is_printable(tenant, tenant_bytes))
        snprintf(text.s, sizeof text.s, "a session of no valid name");
    else if (id_bytes == 0)
        snprintf(text.s, sizeof text.s, "a request of tenant \"%.*s\"",
            (int)tenant_bytes, tenant);
    else if (tenant_bytes == 0)
        snprintf(text.s, sizeof text.s, "\"%.*s\"", (int)id_bytes, id);
    else
        snprintf(text.s, sizeof text.s, "\"%.*s\" of \"%.*s\"", (int)id_bytes,
            id, (int)tenant_bytes, tenant);
    return text;
}

static struct name_text name_of(const struct replay_holder *name)
{
    return name_text(
        name->tenant, strlen(name->tenant), name->id, strlen(name->id));
}

static struct name_text name_of_holder(const struct holder *holder)
{
    return name_text(holder->name, holder->tenant_bytes,
        holder->name + holder->tenant_bytes, holder->id_bytes);
}

/* ---- maps */

static bool is_block(const struct kv_map_node *node, const void *key)
{
    return KV_LIST_ENTRY(node, struct holding, node)->offset ==
           *(const uint64_t *)key;
}

static bool is_holder(const struct kv_map_node *node, const void *key)
{
    const struct holder *holder = KV_LIST_ENTRY(node, struct holder, node);
    const struct replay_holder *name = key;

    return strlen(name->tenant) == holder->tenant_bytes &&
           strlen(name->id) == holder->id_bytes &&
           memcmp(name->tenant, holder->name, holder->tenant_bytes) == 0 &&
           memcmp(name->id, holder->name + holder->tenant_bytes,
               holder->id_bytes) == 0;
}

static uint64_t hash_block(const struct replay *replay, uint64_t offset)
{
    return kv_siphash(replay->blocks.secret, &offset, sizeof offset);
}

static uint64_t hash_name(
    const struct replay *replay, const struct replay_holder *name)
{
    const struct kv_bytes parts[] = {
        {name->tenant, strlen(name->tenant)}, {name->id, strlen(name->id)}};

    return kv_map_hash(&replay->holders, parts, 2);
}

static struct holder *find_holder(
    const struct replay *replay, const struct replay_holder *name)
{
    struct kv_map_node *node =
        kv_map_find(&replay->holders, hash_name(replay, name), name);

    return node != NULL ? KV_LIST_ENTRY(node, struct holder, node) : NULL;
}

static struct holding *find_block(const struct replay *replay, uint64_t offset)
{
    struct kv_map_node *node =
        kv_map_find(&replay->blocks, hash_block(replay, offset), &offset);

    return node != NULL ? KV_LIST_ENTRY(node, struct holding, node) : NULL;
}

/* The block once more, with another holder; NULL if there is none. */
static struct holding *find_again(const struct holding *holding)
{
    struct kv_map_node *node = holding->node.next;

    while (node != NULL && !(node->hash == holding->node.hash &&
                               is_block(node, &holding->offset)))
        node = node->next;
    return node != NULL ? KV_LIST_ENTRY(node, struct holding, node) : NULL;
}

static struct holding *find_holding(
    const struct replay *replay, const struct holder *holder, uint64_t offset)
{
    struct holding *holding = find_block(replay, offset);

    while (holding != NULL && holding->holder != holder)
        holding = find_again(holding);
    return holding;
}

/* ---- holding and letting go */

static struct holder *add_holder(
    struct replay *replay, const struct replay_holder *name)
{
    size_t tenant_bytes = strlen(name->tenant), id_bytes = strlen(name->id);
    struct holder *holder;

    if (kv_map_grow(&replay->holders) != KV_OK)
        return NULL;
    holder = kv_calloc(1, sizeof *holder + tenant_bytes + id_bytes);
    if (holder == NULL)
        return NULL;
    kv_list_init(&holder->holdings);
    holder->tenant_bytes = tenant_bytes;
    holder->id_bytes = id_bytes;
    memcpy(holder->name, name->tenant, tenant_bytes);
    memcpy(holder->name + tenant_bytes, name->id, id_bytes);
    kv_map_insert(&replay->holders, &holder->node, hash_name(replay, name));
    return holder;
}

static void drop_holder_if_empty(struct replay *replay, struct holder *holder)
{
    if (holder->n_holdings > 0)
        return;
    kv_map_remove(&replay->holders, &holder->node);
    kv_free(holder);
}

static enum kv_status hold(struct replay *replay, struct holder *holder,
    uint64_t offset, bool since_free)
{
    enum kv_status status = kv_map_grow(&replay->blocks);
    struct holding *holding;

    if (status != KV_OK)
        return status;
    holding = kv_calloc(1, sizeof *holding);
    if (holding == NULL)
        return KV_NO_MEMORY;
    holding->holder = holder;
    holding->offset = offset;
    holding->since_free = since_free;
    replay->n_used += find_block(replay, offset) == NULL;
    kv_map_insert(&replay->blocks, &holding->node, hash_block(replay, offset));
    kv_list_append(&holder->holdings, &holding->link);
    holder->n_holdings++;
    return KV_OK;
}

static void let_go(struct replay *replay, struct holding *holding)
{
    const struct holding *left;

    kv_map_remove(&replay->blocks, &holding->node);
    kv_list_remove(&holding->link);
    holding->holder->n_holdings--;
    left = find_block(replay, holding->offset);
    if (left == NULL) {
        replay->n_used--;
        replay_keys_forget(&replay->keys, holding->offset);
    } else if (find_again(left) == NULL) {
        replay_keys_unsettle(&replay->keys, holding->offset);
    }
    kv_free(holding);
}

void replay_clear(struct replay *replay)
{
    for (size_t i = 0; i < replay->holders.n_buckets; i++)
        while (replay->holders.buckets[i] != NULL) {
            struct holder *holder =
                KV_LIST_ENTRY(replay->holders.buckets[i], struct holder, node);

            KV_LIST_EACH (link, &holder->holdings)
                let_go(replay, KV_LIST_ENTRY(link, struct holding, link));
            drop_holder_if_empty(replay, holder);
        }
    replay->complete = false;
}

/* ---- life */

enum kv_status replay_open(struct replay **out)
{
    struct replay *replay = kv_calloc(1, sizeof *replay);
    uint64_t secret[2] = {0};

    if (replay == NULL)
        return KV_NO_MEMORY;
    /* Without a secret a forger could only make his own audit slow. */
    if (getrandom(secret, sizeof secret, GRND_NONBLOCK) < 0)
        secret[0] = (uint64_t)(uintptr_t)replay;
    if (kv_map_init(&replay->blocks, 1024, secret, is_block) != KV_OK)
        goto free_replay;
    if (kv_map_init(&replay->holders, 256, secret, is_holder) != KV_OK)
        goto fini_blocks;
    if (replay_keys_init(&replay->keys, secret) != KV_OK)
        goto fini_holders;
    *out = replay;
    return KV_OK;

fini_holders:
    kv_map_fini(&replay->holders);
fini_blocks:
    kv_map_fini(&replay->blocks);
free_replay:
    kv_free(replay);
    return KV_NO_MEMORY;
}

void replay_close(struct replay *replay)
{
    if (replay == NULL)
        return;
    replay_clear(replay);
    replay_keys_fini(&replay->keys);
    kv_map_fini(&replay->holders);
    kv_map_fini(&replay->blocks);
    kv_free(replay);
}

void replay_begin(struct replay *replay, uint64_t block_bytes)
{
    replay_clear(replay);
    replay->block_bytes = block_bytes;
    replay->complete = true;
}

void replay_set_block_bytes(struct replay *replay, uint64_t block_bytes)
{
    if (replay->block_bytes == 0)
        replay->block_bytes = block_bytes;
}

/* ---- one block */

typedef enum kv_status (*block_cb)(struct replay *replay, struct holder *holder,
    const struct replay_holder *name, uint64_t offset, struct kv_error *error);

static enum kv_status allocate_block(struct replay *replay,
    struct holder *holder, const struct replay_holder *name, uint64_t offset,
    struct kv_error *error)
{
    const struct holding *present = find_block(replay, offset);

    if (present != NULL)
        return kv_error_set(error, KV_INVALID,
            "the block at %" PRIu64 " is given to %s, and %s holds it", offset,
            name_of(name).s, name_of_holder(present->holder).s);
    return hold(replay, holder, offset, true);
}

static enum kv_status share_block(struct replay *replay, struct holder *holder,
    const struct replay_holder *name, uint64_t offset, struct kv_error *error)
{
    const struct holding *any = find_block(replay, offset);

    /* Of requests without a session several look like one. */
    if (name->id[0] != '\0' && find_holding(replay, holder, offset) != NULL)
        return kv_error_set(error, KV_INVALID,
            "the block at %" PRIu64 " is shared with %s, which holds it",
            offset, name_of(name).s);
    if (replay->complete && any == NULL)
        return kv_error_set(error, KV_INVALID,
            "the block at %" PRIu64 " is shared with %s, and nobody holds it",
            offset, name_of(name).s);
    return hold(replay, holder, offset, any != NULL && any->since_free);
}

/* The holder's, which must be among those of the block; *out is NULL where the
 * block is not known. */
static enum kv_status find_own(const struct replay *replay,
    const struct holder *holder, const struct replay_holder *name,
    uint64_t offset, struct holding **out, struct kv_error *error)
{
    const struct holding *any = find_block(replay, offset);

    *out = holder != NULL ? find_holding(replay, holder, offset) : NULL;
    if (*out != NULL || (any == NULL && !replay->complete) ||
        (any != NULL && !any->since_free))
        return KV_OK;
    if (any == NULL)
        return kv_error_set(error, KV_INVALID,
            "the block at %" PRIu64 " is taken from %s, and nobody holds it",
            offset, name_of(name).s);
    return kv_error_set(error, KV_INVALID,
        "the block at %" PRIu64 " is taken from %s, and %s holds it", offset,
        name_of(name).s, name_of_holder(any->holder).s);
}

static enum kv_status free_block(struct replay *replay, struct holder *holder,
    const struct replay_holder *name, uint64_t offset, struct kv_error *error)
{
    struct holding *own;
    enum kv_status status = find_own(replay, holder, name, offset, &own, error);

    if (status != KV_OK)
        return status;
    if (own != NULL)
        let_go(replay, own);
    if (find_block(replay, offset) == NULL)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "the block at %" PRIu64 " is freed, and %s holds it yet", offset,
        name_of_holder(find_block(replay, offset)->holder).s);
}

static enum kv_status drop_block(struct replay *replay, struct holder *holder,
    const struct replay_holder *name, uint64_t offset, struct kv_error *error)
{
    struct holding *own;
    bool since_free;
    enum kv_status status = find_own(replay, holder, name, offset, &own, error);

    if (status != KV_OK || own == NULL)
        return status;
    since_free = own->since_free;
    let_go(replay, own);
    if (!since_free || find_block(replay, offset) != NULL)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "the block at %" PRIu64 " is said to live on, and nobody holds it",
        offset);
}

/* ---- many */

static enum kv_status each_block(struct replay *replay, struct holder *holder,
    const struct replay_holder *name, const struct replay_extent *extent,
    block_cb block, struct kv_error *error)
{
    uint64_t block_bytes = replay->block_bytes;
    uint64_t end = extent->offset + extent->size;
    enum kv_status status = KV_OK;

    if (extent->offset % block_bytes != 0 || extent->size % block_bytes != 0)
        return kv_error_set(error, KV_INVALID,
            "extent %" PRIu64 "+%" PRIu64 " is not whole blocks of %" PRIu64,
            extent->offset, extent->size, block_bytes);
    if (extent->size / block_bytes > REPLAY_MAX_BLOCKS)
        return kv_error_set(error, KV_INVALID,
            "%" PRIu64 " blocks at once; an audit follows at most %d",
            extent->size / block_bytes, REPLAY_MAX_BLOCKS);
    for (uint64_t at = extent->offset; status == KV_OK && at < end;
         at += block_bytes)
        status = block(replay, holder, name, at, error);
    return status;
}

static enum kv_status take(struct replay *replay,
    const struct replay_holder *name, const struct replay_extent *extent,
    block_cb block, struct kv_error *error)
{
    struct holder *holder;
    enum kv_status status;

    if (replay->block_bytes == 0)
        return KV_OK;
    holder = find_holder(replay, name);
    if (holder == NULL)
        holder = add_holder(replay, name);
    if (holder == NULL)
        return KV_NO_MEMORY;
    status = each_block(replay, holder, name, extent, block, error);
    drop_holder_if_empty(replay, holder);
    return status;
}

static enum kv_status give(struct replay *replay,
    const struct replay_holder *name, const struct replay_extent *extent,
    block_cb block, struct kv_error *error)
{
    struct holder *holder;
    enum kv_status status;

    if (replay->block_bytes == 0)
        return KV_OK;
    holder = find_holder(replay, name);
    status = each_block(replay, holder, name, extent, block, error);
    if (holder != NULL)
        drop_holder_if_empty(replay, holder);
    return status;
}

enum kv_status replay_allocate(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error)
{
    return take(replay, holder, extent, allocate_block, error);
}

enum kv_status replay_share(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error)
{
    return take(replay, holder, extent, share_block, error);
}

enum kv_status replay_free(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error)
{
    return give(replay, holder, extent, free_block, error);
}

enum kv_status replay_drop(struct replay *replay,
    const struct replay_holder *holder, const struct replay_extent *extent,
    struct kv_error *error)
{
    return give(replay, holder, extent, drop_block, error);
}

enum kv_status replay_drop_all(struct replay *replay,
    const struct replay_holder *name, uint64_t n_shared, struct kv_error *error)
{
    struct holder *holder = find_holder(replay, name);
    uint64_t n_left = holder != NULL ? holder->n_holdings : 0;
    enum kv_status status = KV_OK;

    if (n_left > n_shared || (replay->complete && n_left < n_shared))
        return kv_error_set(error, KV_INVALID,
            "%s holds %" PRIu64 " blocks yet, and %" PRIu64
            " are said to live on with others",
            name_of(name).s, n_left, n_shared);
    if (holder == NULL)
        return KV_OK;
    KV_LIST_EACH (link, &holder->holdings)
        if (status == KV_OK)
            status = drop_block(replay, holder, name,
                KV_LIST_ENTRY(link, struct holding, link)->offset, error);
    drop_holder_if_empty(replay, holder);
    return status;
}

/* ---- keys */

enum kv_status replay_tell_key(struct replay *replay,
    const struct replay_holder *name, uint64_t offset, const uint8_t *key,
    struct kv_error *error)
{
    const struct holding *any = find_block(replay, offset);
    struct holding *own;
    enum kv_status status =
        find_own(replay, find_holder(replay, name), name, offset, &own, error);

    if (status != KV_OK || own == NULL)
        return status;
    status =
        replay_keys_tell(&replay->keys, offset, key, find_again(any) != NULL);
    return status != KV_INVALID
               ? status
               : kv_error_set(error, KV_INVALID,
                     "the block at %" PRIu64 " has another key for %s than for "
                     "others who hold it",
                     offset, name_of(name).s);
}

enum kv_status replay_check_parent(const struct replay *replay,
    const struct replay_holder *name, const uint8_t *key,
    struct kv_error *error)
{
    const struct holder *holder = find_holder(replay, name);

    if (!replay->complete || replay->block_bytes == 0)
        return KV_OK;
    /* From the last on, for it is likely to be that one. */
    if (holder != NULL)
        for (const struct kv_list *link = holder->holdings.prev;
             link != &holder->holdings; link = link->prev)
            if (replay_keys_has(&replay->keys,
                    KV_LIST_ENTRY(link, struct holding, link)->offset, key))
                return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s goes on behind a key that no block of it has", name_of(name).s);
}

enum kv_status replay_check_used(
    const struct replay *replay, uint64_t used_bytes, struct kv_error *error)
{
    uint64_t known = replay->n_used * replay->block_bytes;

    if (replay->complete ? known == used_bytes : known <= used_bytes)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "used is %" PRIu64 ", and by the receipts %" PRIu64
        " blocks of %" PRIu64 " bytes are in use",
        used_bytes, replay->n_used, replay->block_bytes);
}

/* ---- reading */

uint64_t replay_used_blocks(const struct replay *replay)
{
    return replay->n_used;
}

bool replay_holds(const struct replay *replay, const struct replay_holder *name,
    uint64_t offset)
{
    const struct holder *holder = find_holder(replay, name);

    return holder != NULL && find_holding(replay, holder, offset) != NULL;
}

uint64_t replay_held_blocks(
    const struct replay *replay, const struct replay_holder *name)
{
    const struct holder *holder = find_holder(replay, name);

    return holder != NULL ? holder->n_holdings : 0;
}
