#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "engine/merge_list.h"
#include "engine/tokenizer_internal.h"

/* SentencePiece BPE. A text starts as a list of characters; of all neighbours
 * whose concatenation is a token, the pair with the best score becomes one,
 * until no pair is left.
 *
 *     _ h e l l o   ->   _ h e ll o   ->   _ he ll o   ->   _he llo ...
 *
 * A character that is in no token falls back to the tokens of its bytes. */

#define SPACE "\xE2\x96\x81" /* U+2581 */
#define SPACE_BYTES 3

struct merger {
    const struct tokenizer *tokenizer;
    char *text; /* spaces replaced */
    size_t n;
    struct merge_list list;
};

static bool judge(void *ctx, const struct merge_symbol *left,
    const struct merge_symbol *right, double *order, uint32_t *id)
{
    const struct merger *merger = ctx;

    *id = tokenizer_find(merger->tokenizer, merger->text + left->begin,
        (size_t)left->n + right->n);
    if (*id == MERGE_NIL)
        return false;
    *order = -(double)merger->tokenizer->tokens[*id].score;
    return true;
}

static void split_characters(struct merger *merger)
{
    for (size_t at = 0; at < merger->n;) {
        const char *text = merger->text + at;
        const size_t n = (size_t)kv_utf8_length(text, merger->n - at);

        merge_list_add(
            &merger->list, tokenizer_find(merger->tokenizer, text, n), n);
        at += n;
    }
}

static void emit(const struct merger *merger, struct token_list *out)
{
    const struct merge_symbol *symbols = merger->list.symbols;

    for (uint32_t i = 0; i != MERGE_NIL; i = symbols[i].next) {
        const char *text = merger->text + symbols[i].begin;

        if (symbols[i].id != MERGE_NIL) {
            out->ids[out->n++] = symbols[i].id;
            continue;
        }
        for (uint32_t j = 0; j < symbols[i].n; j++)
            out->ids[out->n++] =
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
    const char *text, size_t n, struct token_list *out)
{
    struct merger merger = {.tokenizer = tokenizer};
    enum kv_status status = KV_NO_MEMORY;

    merger.text = kv_calloc(n + 1, SPACE_BYTES);
    if (merger.text == NULL || !merge_list_reserve(&merger.list, n + 1))
        goto done;
    escape_spaces(&merger, text, n);
    if (!token_list_reserve(out, merger.n))
        goto done;
    split_characters(&merger);
    merge_list_run(&merger.list, judge, &merger);
    emit(&merger, out);
    status = KV_OK;
done:
    merge_list_fini(&merger.list);
    kv_free(merger.text);
    return status;
}
