/* libFuzzer: signed notes and keys of strangers. What is taken for a checkpoint
 * is written again and must be read as the same; what is not signed must not be
 * taken for signed. Seed the corpus with `kvpoolctl receipts checkpoint`. */
#include <stdint.h>
#include <string.h>

#include "base/heap.h"
#include "receipts/cosignature.h"

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

static size_t count_lines(const char *text, size_t n)
{
    size_t n_lines = 0;

    for (size_t i = 0; i < n; i++)
        n_lines += text[i] == '\n';
    return n_lines;
}

/* A witness may be handed any note: what it cosigns must be read as cosigned,
 * and nothing else as cosigned by it. */
static void cosign_note(const uint8_t *data, size_t n)
{
    static char cosigned[CHECKPOINT_MAX_NOTE_BYTES];
    struct checkpoint_signer witness;
    size_t n_cosigned;
    uint64_t time_s;

    if (cosignature_signer_generate(&witness, "fuzz", NULL) != KV_OK ||
        cosignature_verify(data, n, &witness.key, &time_s, NULL) == KV_OK)
        __builtin_trap();
    if (cosignature_add(&witness, 7, data, n, cosigned, &n_cosigned, NULL) !=
        KV_OK)
        return;
    /* One line too many is refused; otherwise it is there, and right. */
    if (cosignature_verify(cosigned, n_cosigned, &witness.key, &time_s, NULL) ==
                KV_OK
            ? time_s != 7
            : count_lines(cosigned, n_cosigned) <= CHECKPOINT_MAX_SIGNATURES)
        __builtin_trap();
    checkpoint_signer_fini(&witness);
}

static void read_witness_key(const char *text)
{
    struct checkpoint_key key;

    if (cosignature_key_parse(&key, text, NULL) == KV_OK &&
        strcmp(checkpoint_key_format(&key).s, text) != 0)
        __builtin_trap();
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
    cosign_note(data, n);
    read_key(text);
    read_witness_key(text);
    kv_free(text);
    return 0;
}
