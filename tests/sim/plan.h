/* What a simulation does: settings of a pool, and operations one after another.
 *
 *   a seed ──draw──> plan <──read/print──> text that a person may edit
 *
 * Arguments of operations are raw numbers, and get their meaning when the
 * operation is done: a session by its number among all, a length by what there
 * is. So every list of operations is a plan, and every part of one is, too:
 * that is what lets a failing plan be made smaller.
 *
 * Text: `set NAME NUMBER` for each setting, then an operation a line, `NAME A B
 * C`; what follows `#` is for people. */
#ifndef TESTS_SIM_PLAN_H
#define TESTS_SIM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum plan_setting {
    PLAN_POLICY, /* place in plan_policies */
    PLAN_BLOCKS,
    PLAN_BLOCK_TOKENS,
    PLAN_SESSIONS, /* at most so many */
    PLAN_KEPT_TOKENS,
    PLAN_KEPT_TTL_MS, /* 0: none; so is the next */
    PLAN_IDLE_TTL_MS,
    PLAN_SHARES,      /* prefixes */
    PLAN_ALLOCATIONS, /* have receipts, and releases */
    PLAN_HIGH,        /* watermark, in eighths of the blocks; 0: none */
    PLAN_BEGINNINGS,  /* left by requests without a session, at most */
    PLAN_QUOTAS,      /* may be set at all */
    PLAN_N_SETTINGS,
};

#define PLAN_N_POLICIES 5
extern const char *const plan_policies[PLAN_N_POLICIES];

enum op_kind {
    OP_GET,       /* session a: found or created */
    OP_BEGIN,     /* the same, and a run begins */
    OP_ANONYMOUS, /* a request without a session begins, or slot a is taken */
    OP_APPEND,    /* to a: b tokens about c */
    OP_ADOPT,
    OP_RESERVE, /* for a: all its tokens, or b of them if c is odd */
    OP_COMMIT,  /* of a: all that has room, or about half if b is odd */
    OP_TRUNCATE,
    OP_PROMPT,     /* counted: of a, b found and c computed */
    OP_END,        /* of the run of a */
    OP_SET_ASIDE,  /* a, for pressure */
    OP_IDLE_TTL,   /* of a: b steps of time; so are the next ones */
    OP_TTL,        /* absolute */
    OP_PIN,        /* b steps; c is unused */
    OP_LEASE,      /* b steps, for reader c */
    OP_PRIORITY,   /* b */
    OP_EVICT,      /* a: selectors, b: flags, c: what they select */
    OP_FORGET,     /* a */
    OP_TIME,       /* a milliseconds pass */
    OP_EXPIRE,     /* at most a sessions, or all that is due if a is odd */
    OP_QUOTAS,     /* of tenant a: b eighths of the blocks soft, c hard */
    OP_SWEEP,      /* a blocks or so, if the high watermark was passed */
    OP_SCRUB_TAKE, /* the next job */
    OP_SCRUB_DONE, /* one of those taken */
    OP_REFUSE,     /* from here on nothing may be recorded, or may again */
    OP_STARVE,     /* memory runs out during the next operation */
    OP_SNAPSHOT,
    OP_N_KINDS,
};

struct op {
    enum op_kind kind;
    uint32_t a, b, c;
};

struct plan {
    uint32_t settings[PLAN_N_SETTINGS];
    struct op *ops;
    size_t n_ops;
};

/* The same seed gives the same plan. Ends the program without memory. */
void plan_draw(struct plan *plan, uint64_t seed, size_t n_ops);
void plan_free(struct plan *plan);

void plan_print(const struct plan *plan, FILE *to);

/* Says on stderr what is wrong with the text. */
bool plan_read(struct plan *plan, FILE *from);

const char *op_name(enum op_kind kind);

#endif
