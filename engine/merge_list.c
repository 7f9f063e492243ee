#include "engine/merge_list.h"

#include <assert.h>

#include "base/heap.h"

#define LEAST_ROOM 256 /* symbols: words are short */

/* A pair that may become one. */
struct merge_candidate {
    double order;
    uint32_t left, right; /* symbols */
    uint32_t n;           /* bytes of both when it was found */
    uint32_t id;          /* of what they become */
};

/* ---- the heap: each is better than its children, [2 i + 1] and [2 i + 2] */

static bool is_better(
    const struct merge_candidate *a, const struct merge_candidate *b)
{
    return a->order < b->order || (a->order == b->order && a->left < b->left);
}

static void swap(struct merge_candidate *a, struct merge_candidate *b)
{
    struct merge_candidate other = *a;

    *a = *b;
    *b = other;
}

static void push(struct merge_list *list, struct merge_candidate candidate)
{
    struct merge_candidate *candidates = list->candidates;
    size_t at = list->n_candidates++;

    candidates[at] = candidate;
    while (at > 0 && is_better(&candidates[at], &candidates[(at - 1) / 2])) {
        swap(&candidates[at], &candidates[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

/* There must be one. */
static struct merge_candidate pop(struct merge_list *list)
{
    struct merge_candidate *candidates = list->candidates;
    struct merge_candidate best = candidates[0];
    size_t n = --list->n_candidates, at = 0, child;

    candidates[0] = candidates[n];
    while ((child = 2 * at + 1) < n) {
        if (child + 1 < n &&
            is_better(&candidates[child + 1], &candidates[child]))
            child++;
        if (!is_better(&candidates[child], &candidates[at]))
            break;
        swap(&candidates[child], &candidates[at]);
        at = child;
    }
    return best;
}

/* ---- the list */

bool merge_list_reserve(struct merge_list *list, size_t n)
{
    const size_t n_max = n > LEAST_ROOM ? n : LEAST_ROOM;

    list->n = 0;
    if (n <= list->n_max)
        return true;
    merge_list_fini(list);
    list->symbols = kv_calloc(n_max, sizeof *list->symbols);
    /* One candidate for each pair, and two more after each merge. */
    list->candidates = kv_calloc(n_max, 3 * sizeof *list->candidates);
    if (list->symbols == NULL || list->candidates == NULL)
        return false;
    list->n_max = n_max;
    return true;
}

void merge_list_add(struct merge_list *list, uint32_t id, size_t n)
{
    const uint32_t at = list->n++;
    struct merge_symbol *symbol = &list->symbols[at];

    assert(at < list->n_max && n > 0);
    *symbol = (struct merge_symbol){id, 0, (uint32_t)n, MERGE_NIL, MERGE_NIL};
    if (at == 0)
        return;
    symbol->begin = symbol[-1].begin + symbol[-1].n;
    symbol->prev = at - 1;
    symbol[-1].next = at;
}

static void consider(struct merge_list *list, uint32_t left, uint32_t right,
    merge_judge_cb judge, void *ctx)
{
    const struct merge_symbol *symbols = list->symbols;
    struct merge_candidate candidate = {.left = left, .right = right};

    if (left == MERGE_NIL || right == MERGE_NIL ||
        !judge(ctx, &symbols[left], &symbols[right], &candidate.order,
            &candidate.id))
        return;
    candidate.n = symbols[left].n + symbols[right].n;
    push(list, candidate);
}

void merge_list_run(struct merge_list *list, merge_judge_cb judge, void *ctx)
{
    struct merge_symbol *symbols = list->symbols;

    for (uint32_t i = 1; i < list->n; i++)
        consider(list, i - 1, i, judge, ctx);
    while (list->n_candidates > 0) {
        const struct merge_candidate best = pop(list);
        struct merge_symbol *left = &symbols[best.left];
        struct merge_symbol *right = &symbols[best.right];

        if (left->n == 0 || right->n == 0 || left->n + right->n != best.n)
            continue;
        left->id = best.id;
        left->n = best.n;
        right->n = 0;
        left->next = right->next;
        if (right->next != MERGE_NIL)
            symbols[right->next].prev = best.left;
        consider(list, left->prev, best.left, judge, ctx);
        consider(list, best.left, left->next, judge, ctx);
    }
}

void merge_list_fini(struct merge_list *list)
{
    kv_free(list->candidates);
    kv_free(list->symbols);
    *list = (struct merge_list){.n_max = 0};
}
