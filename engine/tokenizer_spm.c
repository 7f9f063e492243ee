#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
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

struct bigram {
    float score;
    uint32_t left, right; /* symbols */
    uint32_t n;           /* bytes of both when it was found */
};

struct merger {
    const struct tokenizer *tokenizer;
    char *text; /* spaces replaced */
    size_t n;
    struct symbol *symbols;
    uint32_t n_symbols;
    struct bigram *heap; /* the best is first */
    size_t n_heap;
};

static bool is_better(const struct bigram *a, const struct bigram *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void swap(struct bigram *a, struct bigram *b)
{
    struct bigram other = *a;

    *a = *b;
    *b = other;
}

static void heap_push(struct merger *merger, struct bigram bigram)
{
    struct bigram *heap = merger->heap;
    size_t at = merger->n_heap++;

    heap[at] = bigram;
    while (at > 0 && is_better(&heap[at], &heap[(at - 1) / 2])) {
        swap(&heap[at], &heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

static struct bigram heap_pop(struct merger *merger)
{
    struct bigram *heap = merger->heap, best = heap[0];
    size_t n = --merger->n_heap, at = 0, child;

    heap[0] = heap[n];
    while ((child = 2 * at + 1) < n) {
        if (child + 1 < n && is_better(&heap[child + 1], &heap[child]))
            child++;
        if (!is_better(&heap[child], &heap[at]))
            break;
        swap(&heap[child], &heap[at]);
        at = child;
    }
    return best;
}

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
    heap_push(merger,
        (struct bigram){merger->tokenizer->tokens[id].score, left, right, n});
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
    while (merger->n_heap > 0) {
        struct bigram bigram = heap_pop(merger);
        struct symbol *left = &symbols[bigram.left];
        struct symbol *right = &symbols[bigram.right];

        if (left->n == 0 || right->n == 0 || left->n + right->n != bigram.n)
            continue;
        left->n = bigram.n;
        right->n = 0;
        left->next = right->next;
        if (right->next != NIL)
            symbols[right->next].prev = bigram.left;
        consider(merger, left->prev, bigram.left);
        consider(merger, bigram.left, left->next);
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
    merger.heap = kv_calloc(n + 1, 3 * sizeof *merger.heap);
    if (merger.text == NULL || merger.symbols == NULL || merger.heap == NULL)
        goto done;
    escape_spaces(&merger, text, n);
    if (!token_list_reserve(list, merger.n))
        goto done;
    split_characters(&merger);
    merge(&merger);
    emit(&merger, list);
    status = KV_OK;
done:
    kv_free(merger.heap);
    kv_free(merger.symbols);
    kv_free(merger.text);
    return status;
}
