#include "tests/engine/tiny_vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/gguf_writer.h"

/* Value types of GGUF. */
enum { TYPE_U32 = 4, TYPE_I32, TYPE_BOOL = 7, TYPE_STRING, TYPE_ARRAY };

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

static void put_key(struct gguf_writer *writer, const char *name, uint32_t type)
{
    gguf_put_text(writer, name);
    gguf_put_u32(writer, type);
    writer->n_keys++;
}

static void put_text_key(
    struct gguf_writer *writer, const char *name, const char *value)
{
    if (value == NULL)
        return;
    put_key(writer, name, TYPE_STRING);
    gguf_put_text(writer, value);
}

static void put_uint_key(
    struct gguf_writer *writer, const char *name, int64_t value)
{
    if (value < 0)
        return;
    put_key(writer, name, TYPE_U32);
    gguf_put_u32(writer, (uint32_t)value);
}

static void put_bool_key(
    struct gguf_writer *writer, const char *name, int value)
{
    if (value < 0)
        return;
    put_key(writer, name, TYPE_BOOL);
    gguf_put(writer, &(char){(char)value}, 1);
}

static void put_array_key(struct gguf_writer *writer, const char *name,
    uint32_t element_type, size_t n)
{
    put_key(writer, name, TYPE_ARRAY);
    gguf_put_u32(writer, element_type);
    gguf_put_u64(writer, n);
}

static void put_vocabulary(
    struct gguf_writer *writer, const struct tiny_vocabulary *tiny)
{
    uint32_t n = tiny_vocabulary_size(tiny);
    char byte[3];

    put_array_key(writer, "tokenizer.ggml.tokens", TYPE_STRING, n);
    for (int i = 0; i < 256; i++) {
        tiny_vocabulary_spell((unsigned)i, byte);
        gguf_put_text(writer, i == tiny->missing_byte ? "[none]" : byte);
    }
    gguf_put_text(writer, "<|endoftext|>");
    for (size_t i = 0; i < tiny->n_words; i++)
        gguf_put_text(writer, tiny->words[i].text);
    put_array_key(writer, "tokenizer.ggml.token_type", TYPE_I32, n);
    for (int i = 0; i < 256; i++)
        gguf_put_u32(writer, 1);
    gguf_put_u32(writer, 3);
    for (size_t i = 0; i < tiny->n_words; i++)
        gguf_put_u32(writer, (uint32_t)tiny->words[i].kind);
    if (tiny->no_merges_key)
        return;
    put_array_key(writer, "tokenizer.ggml.merges", TYPE_STRING, tiny->n_merges);
    for (size_t i = 0; i < tiny->n_merges; i++)
        gguf_put_text(writer, tiny->merges[i]);
}

unsigned char *tiny_vocabulary_write(
    const struct tiny_vocabulary *tiny, size_t *n)
{
    struct gguf_writer writer = {NULL, 0, 0, 0};
    size_t n_keys_at;

    gguf_put(&writer, "GGUF", 4);
    gguf_put_u32(&writer, 3);
    gguf_put_u64(&writer, 0);
    n_keys_at = writer.n;
    gguf_put_u64(&writer, 0);
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
        gguf_put(&writer, "", 1);
    *n = writer.n;
    return writer.bytes;
}
