#include "tests/engine/tokenizer_rig.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/faulty_heap.h"
#include "tests/support/check_main.h"

void tokenizer_rig_init(struct tokenizer_rig *rig)
{
    faulty_heap_install();
    *rig = (struct tokenizer_rig){NULL, NULL, NULL};
}

void tokenizer_rig_close(struct tokenizer_rig *rig)
{
    tokenizer_close(rig->tokenizer);
    gguf_close(rig->gguf);
    free(rig->bytes);
    *rig = (struct tokenizer_rig){NULL, NULL, NULL};
}

void tokenizer_rig_fini(struct tokenizer_rig *rig)
{
    tokenizer_rig_close(rig);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

void tokenizer_rig_open_file(
    struct tokenizer_rig *rig, unsigned char *bytes, size_t n)
{
    struct kv_error error = {KV_OK, ""};

    tokenizer_rig_close(rig);
    rig->bytes = bytes;
    ck_assert_msg(gguf_open_memory(&rig->gguf, bytes, n, "m", &error) == KV_OK,
        "%s", error.text);
}

void tokenizer_rig_open(struct tokenizer_rig *rig, uint32_t n_vocab)
{
    struct kv_error error = {KV_OK, ""};

    ck_assert_msg(
        tokenizer_open(&rig->tokenizer, rig->gguf, n_vocab, &error) == KV_OK,
        "%s", error.text);
}

void tokenizer_rig_expect_refusal(struct tokenizer_rig *rig, uint32_t n_vocab,
    enum kv_status status, const char *words)
{
    struct kv_error error = {KV_OK, ""};

    ck_assert_int_eq(
        tokenizer_open(&rig->tokenizer, rig->gguf, n_vocab, &error), status);
    ck_assert_ptr_null(rig->tokenizer);
    ck_assert_int_eq(error.status, status);
    ck_assert_msg(strstr(error.text, words) != NULL,
        "\"%s\" does not say \"%s\"", error.text, words);
}
