/* The world as its receipts tell it, and nothing else. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/world.h"

uint64_t view_holding(uint32_t block, int holder)
{
    uint64_t x = ((uint64_t)block << 8 | (uint64_t)holder) + 1;

    x *= UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ x >> 32;
}

static int holder_of(const char *tenant, const char *id)
{
    int number = tenant[0] == '\0' ? 0 : tenant[0] - 'a' + 1;

    return id[0] == '\0' ? WORLD_NAMED + number
                         : number * WORLD_IDS + atoi(id + 1);
}

static void hold(struct world *world, uint32_t block, int holder)
{
    world->view.holdings[block][holder]++;
    world->view.sum += view_holding(block, holder);
}

static void let_go(struct world *world, uint32_t block, int holder)
{
    if (world->view.holdings[block][holder] == 0)
        world_fail(world,
            "a receipt takes block %" PRIu32 " from one that does not hold it",
            block);
    world->view.holdings[block][holder]--;
    world->view.sum -= view_holding(block, holder);
}

static uint32_t count_holders(const struct world *world, uint32_t block)
{
    uint32_t n = 0;

    for (int i = 0; i < WORLD_HOLDERS; i++)
        n += world->view.holdings[block][i];
    return n;
}

/* ---- receipts */

typedef void (*change_cb)(struct world *world, uint32_t block, int holder);

static void each_block(struct world *world, Kvpool__V1__Extent *const *extents,
    size_t n_extents, int holder, change_cb change)
{
    for (size_t i = 0; i < n_extents; i++)
        for (uint64_t at = 0; at < extents[i]->size; at += WORLD_BLOCK_BYTES)
            change(world,
                (uint32_t)((extents[i]->offset + at) / WORLD_BLOCK_BYTES),
                holder);
}

static void give_block(struct world *world, uint32_t block, int holder)
{
    if (count_holders(world, block) > 0)
        world_fail(world, "block %" PRIu32 " is given out twice", block);
    hold(world, block, holder);
}

static void free_block(struct world *world, uint32_t block, int holder)
{
    let_go(world, block, holder);
    if (count_holders(world, block) > 0)
        world_fail(world, "block %" PRIu32 " is freed and held", block);
}

static void drop_block(struct world *world, uint32_t block, int holder)
{
    let_go(world, block, holder);
    if (count_holders(world, block) == 0)
        world_fail(world, "block %" PRIu32 " lives on with nobody", block);
}

/* What lives on with others when the session loses all that it has. */
static void drop_shared(struct world *world, int holder, uint64_t n_shared)
{
    uint64_t n = 0;

    if (n_shared == 0)
        return;
    for (uint32_t block = 0; block < WORLD_MAX_BLOCKS; block++)
        for (; world->view.holdings[block][holder] > 0; n++)
            drop_block(world, block, holder);
    if (n != n_shared)
        world_fail(world,
            "%" PRIu64 " blocks live on by the receipt, and %" PRIu64
            " by all of them",
            n_shared, n);
}

static void take_eviction(
    struct world *world, const Kvpool__V1__EvictionReceipt *eviction)
{
    int holder = holder_of(eviction->tenant, eviction->session_id);

    each_block(
        world, eviction->extents, eviction->n_extents, holder, free_block);
    if (holder < WORLD_NAMED)
        drop_shared(world, holder, eviction->shared_blocks_kept);
    else
        each_block(world, eviction->shared_extents, eviction->n_shared_extents,
            holder, drop_block);
}

static void take_receipt(
    struct world *world, const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__AllocationReceipt *allocation = receipt->allocation;
    const Kvpool__V1__ReleaseReceipt *release = receipt->release;

    switch (receipt->kind_case) {
    case KVPOOL__V1__RECEIPT__KIND_EVICTION:
        take_eviction(world, receipt->eviction);
        break;
    case KVPOOL__V1__RECEIPT__KIND_ALLOCATION:
        each_block(world, allocation->extents, allocation->n_extents,
            holder_of(allocation->tenant, allocation->session_id), give_block);
        each_block(world, allocation->reused_extents,
            allocation->n_reused_extents,
            holder_of(allocation->tenant, allocation->session_id), hold);
        break;
    case KVPOOL__V1__RECEIPT__KIND_RELEASE:
        each_block(world, release->extents, release->n_extents,
            holder_of(release->tenant, release->session_id), free_block);
        each_block(world, release->shared_extents, release->n_shared_extents,
            holder_of(release->tenant, release->session_id), drop_block);
        break;
    default:
        break;
    }
}

/* ---- against the truth */

void view_expect(struct world *world, uint64_t sum)
{
    struct view *view = &world->view;

    if (world->plan->settings[PLAN_ALLOCATIONS] == 0)
        return;
    if (view->begin == view->end)
        view->begin = view->end = 0;
    if (view->end == view->capacity) {
        view->capacity = 2 * view->capacity + 64;
        view->truths =
            realloc(view->truths, view->capacity * sizeof *view->truths);
        if (view->truths == NULL)
            world_fail(world, "out of memory");
    }
    view->truths[view->end++] = (struct view_truth){
        ledger_position(world->ledger).applied_sequence, sum};
}

/* All truths of this sequence, and there must be none left of earlier ones. */
static void check_truths(struct world *world, uint64_t sequence)
{
    struct view *view = &world->view;

    while (view->begin < view->end &&
           view->truths[view->begin].sequence <= sequence) {
        if (view->truths[view->begin].sequence == sequence &&
            view->truths[view->begin].sum != view->sum)
            world_fail(world,
                "at sequence %" PRIu64
                " others hold the blocks than the receipts say",
                sequence);
        view->begin++;
        world->tally->n_truths++;
    }
}

static void take_entry(
    struct world *world, const unsigned char *bytes, size_t n_bytes)
{
    Kvpool__V1__Receipt *receipt =
        kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    struct kv_error error;

    if (receipt == NULL)
        world_fail(world, "a receipt that cannot be unpacked");
    if (audit_add(&world->view.audit, receipt, &error) != KV_OK)
        world_fail(world, "audit: %s", error.text);
    if (world->plan->settings[PLAN_ALLOCATIONS] > 0) {
        take_receipt(world, receipt);
        check_truths(world, receipt->sequence);
    }
    world->tally->n_receipts++;
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
}

void view_advance(struct world *world)
{
    struct feed_run run;

    while (feed_next(world->ledger, &world->view.cursor, 1000, 1 << 20, &run) ==
           KV_OK) {
        const unsigned char *at = run.bytes, *bytes;
        size_t n_bytes;

        while (feed_run_entry(&run, &at, &bytes, &n_bytes))
            take_entry(world, bytes, n_bytes);
        feed_run_release(run.chunk);
    }
    check_truths(world, world->view.cursor.sequence);
}

void view_open(struct world *world)
{
    if (audit_init(&world->view.audit) != KV_OK)
        world_fail(world, "out of memory");
}

void view_close(struct world *world)
{
    struct ledger_position position = ledger_position(world->ledger);
    struct kv_error error;

    view_advance(world);
    if (world->view.cursor.sequence != position.applied_sequence)
        world_fail(world, "a receipt never became readable");
    if (audit_end(&world->view.audit, &error) != KV_OK)
        world_fail(world, "audit: %s", error.text);
    audit_fini(&world->view.audit);
    free(world->view.truths);
}
