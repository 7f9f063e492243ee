#include "engine/merge_list.h"
#include "engine/tokenizer_internal.h"

/* Byte-level BPE. A word starts as a list of the tokens of its bytes; of all
 * neighbours that the vocabulary merges, the pair whose merge comes first in
 * it becomes one, until no pair is left.
 *
 *     l o w e r   ->   l o w er   ->   lo w er   ->   low er   ->   lower */

struct merger {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    struct merge_list list; /* of a word */
};

static bool judge(void *ctx, const struct merge_symbol *left,
    const struct merge_symbol *right, double *order, uint32_t *id)
{
    const struct merger *merger = ctx;
    const struct tokenizer *tokenizer = merger->tokenizer;
    const struct merge *merge =
        tokenizer_find_merge(tokenizer, left->id, right->id);

    if (merge == NULL)
        return false;
    merger->out->n_candidates++;
    *order = (double)(merge - tokenizer->merges);
    *id = merge->id;
    return true;
}

static enum kv_status add_word(void *ctx, const char *word, size_t n)
{
    struct merger *merger = ctx;
    const struct tokenizer *tokenizer = merger->tokenizer;
    struct merge_list *list = &merger->list;
    struct token_list *out = merger->out;
    uint32_t whole = MERGE_NIL;

    if (!token_list_reserve(out, n) || !merge_list_reserve(list, n))
        return KV_NO_MEMORY;
    if (tokenizer->takes_whole_words)
        whole = tokenizer_find(tokenizer, word, n);
    if (whole != MERGE_NIL) {
        out->ids[out->n++] = whole;
        return KV_OK;
    }
    for (size_t i = 0; i < n; i++)
        merge_list_add(list, tokenizer->byte_ids[(unsigned char)word[i]], 1);
    merge_list_run(list, judge, merger);
    for (uint32_t i = 0; i != MERGE_NIL; i = list->symbols[i].next)
        if (list->symbols[i].id != MERGE_NIL)
            out->ids[out->n++] = list->symbols[i].id;
    return KV_OK;
}

enum kv_status tokenizer_encode_bpe(const struct tokenizer *tokenizer,
    const char *text, size_t n, struct token_list *out)
{
    struct merger merger = {.tokenizer = tokenizer, .out = out};
    const enum kv_status status =
        splitter_split(tokenizer->splitter, text, n, add_word, &merger);

    merge_list_fini(&merger.list);
    return status;
}
