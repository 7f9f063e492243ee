#include "tests/engine/tiny_vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Value types of GGUF. */
enum { TYPE_U32 = 4, TYPE_I32, TYPE_BOOL = 7, TYPE_STRING, TYPE_ARRAY };

struct writer {
    unsigned char *bytes;
    size_t n, n_max;
    uint64_t n_keys;
};

void tiny_vocabulary_init(struct tiny_vocabulary *tiny, const char *pre)
{
    *tiny = (struct tiny_vocabulary){.pre = pre,
        .missing_byte = -1,
        .bos_id = -1,
        .unknown_id = -1,
        .adds_bos = -1,
        .adds_space_prefix = -1};
}

void tiny_vocabulary_add_word(
    struct tiny_vocabulary *tiny, const char *text, int32_t kind)
{
    assert(tiny->n_words < sizeof tiny->words / sizeof *tiny->words);
    tiny->words[tiny->n_words++] = (struct tiny_entry){text, kind};
}

void tiny_vocabulary_add_merge(struct tiny_vocabulary *tiny, const char *entry)
{
    assert(tiny->n_merges < sizeof tiny->merges / sizeof *tiny->merges);
    tiny->merges[tiny->n_merges++] = entry;
}

uint32_t tiny_vocabulary_size(const struct tiny_vocabulary *tiny)
{
    return TINY_FIRST_WORD + (uint32_t)tiny->n_words;
}

static int is_visible(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

void tiny_vocabulary_spell(unsigned byte, char out[3])
{
    unsigned code = byte;

    if (!is_visible(byte)) {
        code = 256;
        for (unsigned before = 0; before < byte; before++)
            code += !is_visible(before);
    }
    memset(out, 0, 3);
    if (code < 0x80) {
        out[0] = (char)code;
        return;
    }
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
}

static void put(struct writer *writer, const void *data, size_t n)
{
    if (writer->n + n > writer->n_max) {
        writer->n_max = 2 * (writer->n + n);
        writer->bytes = realloc(writer->bytes, writer->n_max);
        assert(writer->bytes != NULL);
    }
    if (n > 0)
        memcpy(writer->bytes + writer->n, data, n);
    writer->n += n;
}

static void put_u32(struct writer *writer, uint32_t value)
{
    put(writer, &value, sizeof value);
}

static void put_u64(struct writer *writer, uint64_t value)
{
    put(writer, &value, sizeof value);
}

static void put_text(struct writer *writer, const char *text)
{
    put_u64(writer, strlen(text));
    put(writer, text, strlen(text));
}

static void put_key(struct writer *writer, const char *name, uint32_t type)
{
    put_text(writer, name);
    put_u32(writer, type);
    writer->n_keys++;
}

static void put_text_key(
    struct writer *writer, const char *name, const char *value)
{
    if (value == NULL)
        return;
    put_key(writer, name, TYPE_STRING);
    put_text(writer, value);
}

static void put_uint_key(struct writer *writer, const char *name, int64_t value)
{
    if (value < 0)
        return;
    put_key(writer, name, TYPE_U32);
    put_u32(writer, (uint32_t)value);
}

static void put_bool_key(struct writer *writer, const char *name, int value)
{
    if (value < 0)
        return;
    put_key(writer, name, TYPE_BOOL);
    put(writer, &(char){(char)value}, 1);
}

static void put_array_key(
    struct writer *writer, const char *name, uint32_t element_type, size_t n)
{
    put_key(writer, name, TYPE_ARRAY);
    put_u32(writer, element_type);
    put_u64(writer, n);
}

static void put_vocabulary(
    struct writer *writer, const struct tiny_vocabulary *tiny)
{
    uint32_t n = tiny_vocabulary_size(tiny);
    char byte[3];

    put_array_key(writer, "tokenizer.ggml.tokens", TYPE_STRING, n);
    for (int i = 0; i < 256; i++) {
        tiny_vocabulary_spell((unsigned)i, byte);
        put_text(writer, i == tiny->missing_byte ? "[none]" : byte);
    }
    put_text(writer, "<|endoftext|>");
    for (size_t i = 0; i < tiny->n_words; i++)
        put_text(writer, tiny->words[i].text);
    put_array_key(writer, "tokenizer.ggml.token_type", TYPE_I32, n);
    for (int i = 0; i < 256; i++)
        put_u32(writer, 1);
    put_u32(writer, 3);
    for (size_t i = 0; i < tiny->n_words; i++)
        put_u32(writer, (uint32_t)tiny->words[i].kind);
    if (tiny->no_merges_key)
        return;
    put_array_key(writer, "tokenizer.ggml.merges", TYPE_STRING, tiny->n_merges);
    for (size_t i = 0; i < tiny->n_merges; i++)
        put_text(writer, tiny->merges[i]);
}

unsigned char *tiny_vocabulary_write(
    const struct tiny_vocabulary *tiny, size_t *n)
{
    struct writer writer = {NULL, 0, 0, 0};
    size_t n_keys_at;

    put(&writer, "GGUF", 4);
    put_u32(&writer, 3);
    put_u64(&writer, 0);
    n_keys_at = writer.n;
    put_u64(&writer, 0);
    put_text_key(&writer, "tokenizer.ggml.model", "gpt2");
    put_text_key(&writer, "tokenizer.ggml.pre", tiny->pre);
    put_uint_key(&writer, "tokenizer.ggml.eos_token_id", TINY_END);
    put_uint_key(&writer, "tokenizer.ggml.bos_token_id", tiny->bos_id);
    put_uint_key(&writer, "tokenizer.ggml.unknown_token_id", tiny->unknown_id);
    put_bool_key(&writer, "tokenizer.ggml.add_bos_token", tiny->adds_bos);
    put_bool_key(
        &writer, "tokenizer.ggml.add_space_prefix", tiny->adds_space_prefix);
    put_vocabulary(&writer, tiny);
    memcpy(writer.bytes + n_keys_at, &writer.n_keys, sizeof writer.n_keys);
    while (writer.n % 32 != 0)
        put(&writer, "", 1);
    *n = writer.n;
    return writer.bytes;
}
