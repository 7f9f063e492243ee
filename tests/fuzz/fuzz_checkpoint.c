/* libFuzzer: signed notes and keys of strangers. What is taken for a checkpoint
 * is written again and must be read as the same; what is not signed must not be
 * taken for signed. Seed the corpus with `kvpoolctl receipts checkpoint`. */
#include <stdint.h>
#include <string.h>

#include "base/heap.h"
#include "receipts/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct checkpoint_signer make_signer(void)
{
    struct checkpoint_signer signer;

    if (checkpoint_signer_generate(&signer, "fuzz", NULL) != KV_OK)
        __builtin_trap();
    return signer;
}

static void read_note(const uint8_t *data, size_t n)
{
    struct checkpoint_signer signer;
    struct checkpoint read, again;
    struct checkpoint_note note;

    if (checkpoint_parse(data, n, &read, NULL) != KV_OK)
        return;
    signer = make_signer();
    if (checkpoint_verify(data, n, &signer.key, &again, NULL) == KV_OK)
        __builtin_trap();
    checkpoint_sign(&signer, &read, &note);
    if (checkpoint_verify(
            note.bytes, note.n_bytes, &signer.key, &again, NULL) != KV_OK ||
        strcmp(read.origin, again.origin) != 0 ||
        read.tree_size != again.tree_size ||
        !merkle_hash_equal(&read.root, &again.root))
        __builtin_trap();
    checkpoint_signer_fini(&signer);
}

static void read_key(const char *text)
{
    struct checkpoint_signer signer;
    struct checkpoint_key key;

    if (checkpoint_key_parse(&key, text, NULL) == KV_OK &&
        strcmp(checkpoint_key_format(&key).s, text) != 0)
        __builtin_trap();
    if (checkpoint_signer_parse(&signer, text, NULL) == KV_OK &&
        strcmp(checkpoint_signer_format(&signer).s, text) != 0)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = kv_strndup((const char *)data, n);

    if (text == NULL)
        return 0;
    read_note(data, n);
    read_key(text);
    kv_free(text);
    return 0;
}
