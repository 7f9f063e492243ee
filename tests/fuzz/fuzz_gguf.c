/* libFuzzer: a model file and its vocabulary, then a text through it. Seed the
 * corpus with engine/demo/demo.gguf or small models of bench/synth_model. */
#include <stdint.h>
#include <string.h>

#include "base/heap.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The end of the file serves as text too. */
static void use_tokenizer(
    const struct model *model, const uint8_t *data, size_t n)
{
    struct tokenizer *tokenizer;
    struct kv_error error;
    size_t n_text = n < 64 ? n : 64, n_ids;
    uint32_t *ids;

    if (tokenizer_open(&tokenizer, model->gguf, model->shape.n_vocab, &error) !=
        KV_OK)
        return;
    if (tokenizer_encode(tokenizer, (const char *)data + n - n_text, n_text,
            TOKENIZER_ADD_BOS, &ids, &n_ids) == KV_OK)
        kv_free(ids);
    for (uint32_t id = 0; id < model->shape.n_vocab; id++)
        (void)tokenizer_piece(tokenizer, id);
    tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model *model;
    struct kv_error error;
    uint64_t *copy = kv_calloc(n / 8 + 1, 8); /* aligned as a mapping is */

    if (copy == NULL)
        return 0;
    memcpy(copy, data, n);
    if (model_open_memory(&model, copy, n, "fuzz", &error) == KV_OK) {
        use_tokenizer(model, data, n);
        model_close(model);
    }
    kv_free(copy);
    return 0;
}
