#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/merge_heap.h"
#include "engine/tokenizer_internal.h"

/* SentencePiece BPE. A text starts as a list of characters; of all neighbours
 * whose concatenation is a token, the pair with the best score, the leftmost
 * among equals, becomes one, until no pair is left. Candidates wait in a heap;
 * one whose halves have changed since is known by its length and dropped.
 *
 *     _ h e l l o   ->   _ h e ll o   ->   _ he ll o   ->   _he llo ...
 *
 * A character that is in no token falls back to the tokens of its bytes. */

#define NIL UINT32_MAX
#define SPACE "\xE2\x96\x81" /* U+2581 */
#define SPACE_BYTES 3

struct symbol {
    uint32_t begin, n; /* n is 0 once it has become part of the one before */
    uint32_t prev, next;
};

struct merger {
    const struct tokenizer *tokenizer;
    char *text; /* spaces replaced */
    size_t n;
    struct symbol *symbols;
    uint32_t n_symbols;
    struct merge_heap heap;
};

static void consider(struct merger *merger, uint32_t left, uint32_t right)
{
    const struct symbol *symbols = merger->symbols;
    uint32_t n, id;

    if (left == NIL || right == NIL)
        return;
    n = symbols[left].n + symbols[right].n;
    id = tokenizer_find(
        merger->tokenizer, merger->text + symbols[left].begin, n);
    if (id == NIL)
        return;
    merge_heap_push(&merger->heap,
        (struct merge_candidate){
            .order = -(double)merger->tokenizer->tokens[id].score,
            .left = left,
            .right = right,
            .n = n,
        });
}

static void split_characters(struct merger *merger)
{
    uint32_t at = 0, i = 0;

    while (at < merger->n) {
        int length = kv_utf8_length(merger->text + at, merger->n - at);

        merger->symbols[i] =
            (struct symbol){at, (uint32_t)length, i == 0 ? NIL : i - 1, i + 1};
        at += (uint32_t)length;
        i++;
    }
    merger->symbols[i - 1].next = NIL;
    merger->n_symbols = i;
}

static void merge(struct merger *merger)
{
    struct symbol *symbols = merger->symbols;

    for (uint32_t i = 1; i < merger->n_symbols; i++)
        consider(merger, i - 1, i);
    while (merger->heap.n > 0) {
        struct merge_candidate best = merge_heap_pop(&merger->heap);
        struct symbol *left = &symbols[best.left];
        struct symbol *right = &symbols[best.right];

        if (left->n == 0 || right->n == 0 || left->n + right->n != best.n)
            continue;
        left->n = best.n;
        right->n = 0;
        left->next = right->next;
        if (right->next != NIL)
            symbols[right->next].prev = best.left;
        consider(merger, left->prev, best.left);
        consider(merger, best.left, left->next);
    }
}

static void emit(const struct merger *merger, struct token_list *list)
{
    for (uint32_t i = 0; i != NIL; i = merger->symbols[i].next) {
        const struct symbol *symbol = &merger->symbols[i];
        const char *text = merger->text + symbol->begin;
        uint32_t id = tokenizer_find(merger->tokenizer, text, symbol->n);

        if (id != NIL) {
            list->ids[list->n++] = id;
            continue;
        }
        for (uint32_t j = 0; j < symbol->n; j++)
            list->ids[list->n++] =
                merger->tokenizer->byte_ids[(unsigned char)text[j]];
    }
}

static void escape_spaces(struct merger *merger, const char *text, size_t n)
{
    size_t at = 0;

    if (merger->tokenizer->adds_space) {
        memcpy(merger->text, SPACE, SPACE_BYTES);
        at = SPACE_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            merger->text[at++] = text[i];
            continue;
        }
        memcpy(merger->text + at, SPACE, SPACE_BYTES);
        at += SPACE_BYTES;
    }
    merger->n = at;
}

enum kv_status tokenizer_encode_spm(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *list)
{
    struct merger merger = {.tokenizer = tokenizer};
    enum kv_status status = KV_NO_MEMORY;

    merger.text = kv_calloc(n + 1, SPACE_BYTES);
    merger.symbols = kv_calloc(n + 1, sizeof *merger.symbols);
    /* One candidate for each pair, and two more after each merge. */
    merger.heap.candidates =
        kv_calloc(n + 1, 3 * sizeof *merger.heap.candidates);
    if (merger.text == NULL || merger.symbols == NULL ||
        merger.heap.candidates == NULL)
        goto done;
    escape_spaces(&merger, text, n);
    if (!token_list_reserve(list, merger.n))
        goto done;
    split_characters(&merger);
    merge(&merger);
    emit(&merger, list);
    status = KV_OK;
done:
    kv_free(merger.heap.candidates);
    kv_free(merger.symbols);
    kv_free(merger.text);
    return status;
}
