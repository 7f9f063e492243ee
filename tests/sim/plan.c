#include "tests/sim/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define N_FIRST 24 /* numbers that name the same session to every operation */

const char *const plan_policies[PLAN_N_POLICIES] = {
    "lru", "lru_tail", "priority", "s3fifo", "cost"};

/* Settings are drawn from least to most. */
static const struct {
    const char *name;
    uint32_t least, most;
} settings[PLAN_N_SETTINGS] = {
    [PLAN_POLICY] = {"policy", 0, PLAN_N_POLICIES - 1},
    [PLAN_BLOCKS] = {"blocks", 1, 96},
    [PLAN_BLOCK_TOKENS] = {"block_tokens", 1, 8},
    [PLAN_SESSIONS] = {"sessions", 1, 32},
    [PLAN_KEPT_TOKENS] = {"kept_tokens", 0, 400},
    [PLAN_KEPT_TTL_MS] = {"kept_ttl_ms", 0, 4000},
    [PLAN_IDLE_TTL_MS] = {"idle_ttl_ms", 0, 3000},
    [PLAN_SHARES] = {"shares", 0, 3},
    [PLAN_ALLOCATIONS] = {"allocations", 0, 3},
    [PLAN_HIGH] = {"high", 0, 7},
    [PLAN_BEGINNINGS] = {"beginnings", 0, 3},
    [PLAN_QUOTAS] = {"quotas", 0, 1},
};

/* How often they are drawn. */
static const struct {
    const char *name;
    uint32_t weight;
} kinds[OP_N_KINDS] = {
    [OP_GET] = {"get", 1},
    [OP_BEGIN] = {"begin", 10},
    [OP_ANONYMOUS] = {"anonymous", 2},
    [OP_APPEND] = {"append", 20},
    [OP_ADOPT] = {"adopt", 16},
    [OP_RESERVE] = {"reserve", 24},
    [OP_COMMIT] = {"commit", 24},
    [OP_TRUNCATE] = {"truncate", 3},
    [OP_PROMPT] = {"prompt", 4},
    [OP_END] = {"end", 14},
    [OP_SET_ASIDE] = {"set_aside", 1},
    [OP_IDLE_TTL] = {"idle_ttl", 2},
    [OP_TTL] = {"ttl", 1},
    [OP_PIN] = {"pin", 2},
    [OP_LEASE] = {"lease", 2},
    [OP_PRIORITY] = {"priority", 2},
    [OP_EVICT] = {"evict", 3},
    [OP_FORGET] = {"forget", 1},
    [OP_TIME] = {"time", 8},
    [OP_EXPIRE] = {"expire", 6},
    [OP_QUOTAS] = {"quotas", 1},
    [OP_SWEEP] = {"sweep", 8},
    [OP_SCRUB_TAKE] = {"scrub_take", 16},
    [OP_SCRUB_DONE] = {"scrub_done", 16},
    [OP_REFUSE] = {"refuse", 1},
    [OP_STARVE] = {"starve", 2},
    [OP_SNAPSHOT] = {"snapshot", 1},
};

const char *op_name(enum op_kind kind)
{
    return kinds[kind].name;
}

/* ---- drawing */

static uint32_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)((*random * UINT64_C(2685821657736338717)) >> 33);
}

static enum op_kind draw_kind(uint64_t *random)
{
    uint32_t sum = 0, at;

    for (int kind = 0; kind < OP_N_KINDS; kind++)
        sum += kinds[kind].weight;
    at = draw(random) % sum;
    for (int kind = 0;; kind++) {
        if (at < kinds[kind].weight)
            return (enum op_kind)kind;
        at -= kinds[kind].weight;
    }
}

static void *must_have(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "sim: out of memory\n");
        exit(2);
    }
    return memory;
}

/* A whole turn of a conversation, so that much gets done. */
static size_t draw_turn(uint64_t *random, struct op *ops, size_t n_ops)
{
    static const enum op_kind turn[] = {OP_BEGIN, OP_APPEND, OP_ADOPT,
        OP_RESERVE, OP_SCRUB_TAKE, OP_SCRUB_DONE, OP_RESERVE, OP_COMMIT,
        OP_END};
    const struct op op = {.a = draw(random) % N_FIRST,
        .b = 2 * (draw(random) % 20),
        .c = 2 * (draw(random) % 3)};
    size_t n = 0;

    for (; n < sizeof turn / sizeof *turn && n < n_ops; n++) {
        ops[n] = op;
        ops[n].kind = turn[n];
    }
    return n;
}

void plan_draw(struct plan *plan, uint64_t seed, size_t n_ops)
{
    uint64_t random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;

    for (int i = 0; i < PLAN_N_SETTINGS; i++)
        plan->settings[i] =
            settings[i].least +
            draw(&random) % (settings[i].most - settings[i].least + 1);
    /* Some plans have no such time at all. */
    if (draw(&random) % 3 == 0)
        plan->settings[PLAN_KEPT_TTL_MS] = 0;
    if (draw(&random) % 3 == 0)
        plan->settings[PLAN_IDLE_TTL_MS] = 0;
    plan->ops = must_have(calloc(n_ops, sizeof *plan->ops));
    plan->n_ops = n_ops;
    for (size_t i = 0; i < n_ops; i++)
        if (draw(&random) % 16 == 0)
            i += draw_turn(&random, plan->ops + i, n_ops - i) - 1;
        else
            plan->ops[i] = (struct op){
                .kind = draw_kind(&random),
                .a = draw(&random) % 1000,
                .b = draw(&random) % 1000,
                .c = draw(&random) % 1000,
            };
}

void plan_free(struct plan *plan)
{
    free(plan->ops);
    *plan = (struct plan){.ops = NULL};
}

/* ---- as text */

void plan_print(const struct plan *plan, FILE *to)
{
    for (int i = 0; i < PLAN_N_SETTINGS; i++)
        fprintf(
            to, "set %s %" PRIu32 "\n", settings[i].name, plan->settings[i]);
    for (size_t i = 0; i < plan->n_ops; i++) {
        const struct op *op = &plan->ops[i];

        fprintf(to, "%s %" PRIu32 " %" PRIu32 " %" PRIu32 "\n",
            op_name(op->kind), op->a, op->b, op->c);
    }
}

static bool read_setting(struct plan *plan, const char *line)
{
    char name[32];
    uint32_t value;

    if (sscanf(line, "set %31s %" SCNu32, name, &value) != 2)
        return false;
    for (int i = 0; i < PLAN_N_SETTINGS; i++)
        if (strcmp(settings[i].name, name) == 0) {
            plan->settings[i] = value;
            return value >= settings[i].least && value <= settings[i].most;
        }
    return false;
}

static bool read_op(struct plan *plan, const char *line)
{
    struct op op = {.a = 0};
    char name[32];

    if (sscanf(line, "%31s %" SCNu32 " %" SCNu32 " %" SCNu32, name, &op.a,
            &op.b, &op.c) < 1)
        return false;
    while (op.kind < OP_N_KINDS && strcmp(op_name(op.kind), name) != 0)
        op.kind++;
    if (op.kind == OP_N_KINDS)
        return false;
    plan->ops =
        must_have(realloc(plan->ops, (plan->n_ops + 1) * sizeof *plan->ops));
    plan->ops[plan->n_ops++] = op;
    return true;
}

bool plan_read(struct plan *plan, FILE *from)
{
    char line[256];
    int number = 0;

    *plan = (struct plan){.ops = NULL};
    for (int i = 0; i < PLAN_N_SETTINGS; i++)
        plan->settings[i] = settings[i].least;
    while (fgets(line, sizeof line, from) != NULL) {
        line[strcspn(line, "#\n")] = '\0';
        number++;
        if (line[strspn(line, " \t")] == '\0')
            continue;
        if (strncmp(line, "set ", 4) == 0 ? read_setting(plan, line)
                                          : read_op(plan, line))
            continue;
        fprintf(stderr, "sim: line %d is neither a setting nor an operation\n",
            number);
        return false;
    }
    return true;
}
