#include "tests/sim/world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/sim/heap.h"

#define CHECK_EVERY 61

void world_fail(const struct world *world, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "operation %zu", world->at + 1);
    if (world->at < world->plan->n_ops) {
        const struct op *op = &world->plan->ops[world->at];

        fprintf(stderr, " (%s %" PRIu32 " %" PRIu32 " %" PRIu32 ")",
            op_name(op->kind), op->a, op->b, op->c);
    }
    fprintf(stderr, ": ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    _exit(1);
}

void world_must(const struct world *world, bool holds, const char *what)
{
    if (!holds)
        world_fail(world, "%s", what);
}

/* ---- what fails changes nothing */

struct world_moment world_moment(const struct world *world)
{
    return (struct world_moment){pool_stats(world->pool),
        pool_blocks(world->pool), ledger_position(world->ledger)};
}

void world_must_be_as_before(
    const struct world *world, const struct world_moment *before)
{
    const struct world_moment now = world_moment(world);

    world_must(world,
        memcmp(&before->stats, &now.stats, sizeof now.stats) == 0 &&
            memcmp(&before->blocks, &now.blocks, sizeof now.blocks) == 0 &&
            before->position.applied_sequence == now.position.applied_sequence,
        "what failed has changed something");
}

/* Why something may fail at all. */
void world_check_refusal(struct world *world, enum kv_status status,
    const struct world_moment *before)
{
    world_must_be_as_before(world, before);
    if (status == KV_NO_MEMORY) {
        world_must(world, world->starving > 0, "there was memory");
        return;
    }
    world_must(
        world, status == KV_IO && world->refuses, kv_status_text(status));
    world->tally->n_refused++;
}

/* ---- zeroing, and snapshots */

static void take_scrub(struct world *world)
{
    if (pool_scrub_next(world->pool, &world->out[world->n_out]))
        world->n_out++;
}

static void end_scrub(struct world *world, size_t at)
{
    const struct pool_scrub job = world->out[at];

    for (size_t i = 0; i < job.n_extents; i++)
        memset(pool_arena(world->pool) + job.extents[i].offset, 0,
            job.extents[i].size);
    world->out[at] = world->out[--world->n_out];
    pool_scrub_done(world->pool, job.scrub_id, world->now_ns);
}

static void issue_snapshot(struct world *world)
{
    struct pool_totals totals = pool_totals(world->pool);
    struct ledger_pool_snapshot snapshot = {.stats = pool_stats(world->pool),
        .sessions_created = totals.sessions_created};

    memcpy(snapshot.evictions_by_reason, totals.evictions_by_reason,
        sizeof totals.evictions_by_reason);
    ledger_issue_snapshot(world->ledger, &snapshot, world->now_ns);
}

/* ---- all of them */

static void do_op(struct world *world, const struct op *op)
{
    switch (op->kind) {
    case OP_GET:
    case OP_BEGIN:
        world_begin(world, op);
        break;
    case OP_ANONYMOUS:
        world_anonymous(world, op);
        break;
    case OP_APPEND:
        world_append(world, op);
        break;
    case OP_ADOPT:
        world_adopt(world, op);
        break;
    case OP_RESERVE:
        world_reserve(world, op);
        break;
    case OP_COMMIT:
        world_commit(world, op);
        break;
    case OP_TRUNCATE:
        world_truncate(world, op);
        break;
    case OP_PROMPT:
        world_prompt(world, op);
        break;
    case OP_END:
        world_end(world, op);
        break;
    case OP_SET_ASIDE:
        world_set_aside(world, op);
        break;
    case OP_IDLE_TTL:
    case OP_TTL:
    case OP_PIN:
    case OP_LEASE:
    case OP_PRIORITY:
        world_retain(world, op);
        break;
    case OP_EVICT:
        world_evict(world, op);
        break;
    case OP_FORGET:
        world_forget(world, op);
        break;
    case OP_TIME:
        world->now_ns += op->a % 300 * KV_NS_PER_MS;
        break;
    case OP_EXPIRE:
        world_expire(world, op);
        break;
    case OP_QUOTAS:
        world_quotas(world, op);
        break;
    case OP_SWEEP:
        world_sweep(world, op);
        break;
    case OP_SCRUB_TAKE:
        take_scrub(world);
        break;
    case OP_SCRUB_DONE:
        if (world->n_out > 0)
            end_scrub(world, op->a % world->n_out);
        break;
    case OP_REFUSE:
        world->refuses = op->a % 4 == 0;
        break;
    case OP_SNAPSHOT:
        issue_snapshot(world);
        break;
    case OP_STARVE: /* the next operation's matter */
    case OP_N_KINDS:
        break;
    }
}

static void starve(struct world *world, const struct op *op)
{
    world->starving = op->kind == OP_STARVE ? 1 + op->a % 3 : 0;
    if (world->starving > 0)
        heap_starve(world->starving);
}

static void feed(struct world *world)
{
    if (!heap_feed())
        return;
    world->has_starved = true;
    world->tally->n_starved++;
}

/* Everybody goes, and everything is zeroed. */
static void end_all(struct world *world)
{
    world->refuses = false;
    for (uint32_t i = 0; i < WORLD_ACTORS; i++)
        world_end(world, &(struct op){.kind = OP_END});
    laws_check(world, true);
    for (size_t i = 0; i < WORLD_ACTORS; i++) {
        if (world->actors[i].exists)
            pool_session_forget(
                world->pool, world_session(world, i), world->now_ns);
        world->actors[i].exists = false;
    }
    do {
        while (world->n_out > 0)
            end_scrub(world, 0);
        take_scrub(world);
    } while (world->n_out > 0);
    laws_check(world, true);
    world_must(world,
        pool_blocks(world->pool).free == pool_blocks(world->pool).total,
        "a block is left over");
}

static int64_t wall_ns(void)
{
    return 1;
}

static void open_world(struct world *world)
{
    const uint32_t *settings = world->plan->settings;
    const struct ledger_config ledger_config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES,
        .epoch = 1,
        .allocations = settings[PLAN_ALLOCATIONS] > 0,
        .wall_ns = wall_ns};
    const struct ledger_boot boot = {.total_blocks = settings[PLAN_BLOCKS],
        .block_bytes = WORLD_BLOCK_BYTES};
    struct pool_config config = {
        .block_bytes = WORLD_BLOCK_BYTES,
        .n_blocks = settings[PLAN_BLOCKS],
        .block_tokens = settings[PLAN_BLOCK_TOKENS],
        .max_sessions = settings[PLAN_SESSIONS],
        .max_kept_tokens = settings[PLAN_KEPT_TOKENS],
        .kept_ttl_ns = settings[PLAN_KEPT_TTL_MS] * KV_NS_PER_MS,
        .default_idle_ttl_ns = settings[PLAN_IDLE_TTL_MS] * KV_NS_PER_MS,
        .eviction_policy = plan_policies[settings[PLAN_POLICY]],
        .share_prefixes = settings[PLAN_SHARES] > 0,
        .high_blocks = settings[PLAN_BLOCKS] * settings[PLAN_HIGH] / 8,
        .max_beginnings = settings[PLAN_BEGINNINGS],
        .low_blocks = settings[PLAN_BLOCKS] * settings[PLAN_HIGH] / 12,
        .secret = {1, 2},
    };
    struct kv_error error;

    world->now_ns = KV_NS_PER_S;
    world_must(world,
        ledger_open(&world->ledger, &ledger_config, NULL) == KV_OK,
        "a ledger opens");
    tap_open(world);
    config.observer = &world->observer;
    if (pool_open(&world->pool, &config, world->now_ns, &error) != KV_OK)
        world_fail(world, "%s", error.text);
    ledger_issue_boot(world->ledger, &boot, world->now_ns);
    view_open(world);
}

static void close_world(struct world *world)
{
    struct ledger_position position;
    struct merkle_hash root;

    end_all(world);
    issue_snapshot(world);
    ledger_issue_drain(world->ledger, "SIGTERM", 1, world->now_ns);
    view_close(world);
    position = ledger_position(world->ledger);
    world_must(world,
        merkle_root(
            ledger_tree(world->ledger), position.applied_sequence, &root),
        "a ledger has a root");
    memcpy(world->tally->root, &root, sizeof world->tally->root);
    pool_close(world->pool);
    ledger_close(world->ledger);
}

void world_run(const struct plan *plan, struct tally *tally)
{
    struct world *world = calloc(1, sizeof *world);

    if (world == NULL)
        _exit(2);
    world->plan = plan;
    world->tally = tally;
    open_world(world);
    for (; world->at < plan->n_ops; world->at++) {
        do_op(world, &plan->ops[world->at]);
        feed(world);
        laws_check(world, world->at % CHECK_EVERY == 0);
        starve(world, &plan->ops[world->at]);
        tally->n_ops++;
    }
    heap_feed();
    close_world(world);
    free(world);
}
