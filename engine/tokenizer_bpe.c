#include <string.h>

#include "base/heap.h"
#include "engine/merge_heap.h"
#include "engine/tokenizer_internal.h"

/* Byte-level BPE. A word starts as a list of the tokens of its bytes; of all
 * neighbours that the vocabulary merges, the pair whose merge comes first in
 * it, the leftmost among equals, becomes one, until no pair is left.
 * Candidates wait in a heap; one whose halves have changed since is known by
 * its length and dropped.
 *
 *     l o w e r   ->   l o w er   ->   lo w er   ->   low er   ->   lower */

#define NIL UINT32_MAX

struct symbol {
    uint32_t id;
    uint32_t n; /* bytes; 0 once it has become part of the one before */
    uint32_t prev, next;
};

struct merger {
    const struct tokenizer *tokenizer;
    struct token_list *list;
    size_t max_bytes; /* of a word, for which there is room below */
    struct symbol *symbols;
    struct merge_heap heap;
};

static void consider(struct merger *merger, uint32_t left, uint32_t right)
{
    const struct symbol *symbols = merger->symbols;
    const struct merge *merge;

    if (left == NIL || right == NIL)
        return;
    merge = tokenizer_find_merge(
        merger->tokenizer, symbols[left].id, symbols[right].id);
    if (merge == NULL)
        return;
    merger->list->n_candidates++;
    merge_heap_push(
        &merger->heap, (struct merge_candidate){
                           .order = (double)(merge - merger->tokenizer->merges),
                           .left = left,
                           .right = right,
                           .n = symbols[left].n + symbols[right].n,
                           .id = merge->id,
                       });
}

static void merge_symbols(struct merger *merger, uint32_t n)
{
    struct symbol *symbols = merger->symbols;

    for (uint32_t i = 1; i < n; i++)
        consider(merger, i - 1, i);
    while (merger->heap.n > 0) {
        struct merge_candidate best = merge_heap_pop(&merger->heap);
        struct symbol *left = &symbols[best.left];
        struct symbol *right = &symbols[best.right];

        if (left->n == 0 || right->n == 0 || left->n + right->n != best.n)
            continue;
        left->id = best.id;
        left->n = best.n;
        right->n = 0;
        left->next = right->next;
        if (right->next != NIL)
            symbols[right->next].prev = best.left;
        consider(merger, left->prev, best.left);
        consider(merger, best.left, left->next);
    }
}

/* Words are short; a long one makes room for the next as well. */
static bool reserve_word(struct merger *merger, size_t n)
{
    size_t n_max = n > 256 ? n : 256;

    if (n <= merger->max_bytes)
        return true;
    merger->max_bytes = 0;
    kv_free(merger->symbols);
    kv_free(merger->heap.candidates);
    merger->symbols = kv_calloc(n_max, sizeof *merger->symbols);
    /* One candidate for each pair, and two more after each merge. */
    merger->heap.candidates =
        kv_calloc(n_max, 3 * sizeof *merger->heap.candidates);
    if (merger->symbols == NULL || merger->heap.candidates == NULL)
        return false;
    merger->max_bytes = n_max;
    return true;
}

static enum kv_status add_word(void *context, const char *word, size_t n)
{
    struct merger *merger = context;
    const struct tokenizer *tokenizer = merger->tokenizer;
    struct token_list *list = merger->list;
    uint32_t whole = NIL;

    if (!token_list_reserve(list, n) || !reserve_word(merger, n))
        return KV_NO_MEMORY;
    if (tokenizer->takes_whole_words)
        whole = tokenizer_find(tokenizer, word, n);
    if (whole != NIL) {
        list->ids[list->n++] = whole;
        return KV_OK;
    }
    for (uint32_t i = 0; i < n; i++)
        merger->symbols[i] =
            (struct symbol){tokenizer->byte_ids[(unsigned char)word[i]], 1,
                i == 0 ? NIL : i - 1, i + 1 == n ? NIL : i + 1};
    merge_symbols(merger, (uint32_t)n);
    for (uint32_t i = 0; i != NIL; i = merger->symbols[i].next)
        if (merger->symbols[i].id != NIL)
            list->ids[list->n++] = merger->symbols[i].id;
    return KV_OK;
}

enum kv_status tokenizer_encode_bpe(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *list)
{
    struct merger merger = {.tokenizer = tokenizer, .list = list};
    enum kv_status status =
        splitter_split(tokenizer->splitter, text, n, add_word, &merger);

    kv_free(merger.heap.candidates);
    kv_free(merger.symbols);
    return status;
}
