/* A byte-level BPE vocabulary of a few kilobytes, in a GGUF file without
 * tensors: the 256 bytes, an end of text, and what the test adds. */
#ifndef TESTS_ENGINE_TINY_VOCABULARY_H
#define TESTS_ENGINE_TINY_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#define TINY_END 256u        /* <|endoftext|>, a control token */
#define TINY_FIRST_WORD 257u /* the first that was added */

struct tiny_entry {
    const char *text;
    int32_t kind; /* 1 normal, 3 control, 4 user-defined */
};

struct tiny_vocabulary {
    const char *pre; /* NULL: the key is not there */
    struct tiny_entry words[32];
    size_t n_words;
    const char *merges[32];
    size_t n_merges;
    int no_merges_key;     /* 1: not there */
    int missing_byte;      /* this one's token is [none]; -1: none is missing */
    int64_t bos_id;        /* -1: the key is not there */
    int64_t unknown_id;    /* likewise */
    int adds_bos;          /* likewise */
    int adds_space_prefix; /* likewise */
};

/* Nothing added. */
void tiny_vocabulary_init(struct tiny_vocabulary *tiny, const char *pre);

void tiny_vocabulary_add_word(
    struct tiny_vocabulary *tiny, const char *text, int32_t kind);

/* An entry such as "a b"; the whole must be added as a word, too. */
void tiny_vocabulary_add_merge(struct tiny_vocabulary *tiny, const char *entry);

uint32_t tiny_vocabulary_size(const struct tiny_vocabulary *tiny);

/* How a byte is spelled in the file: one or two bytes, and a NUL. */
void tiny_vocabulary_spell(unsigned byte, char out[3]);

/* The file, in memory of malloc. */
unsigned char *tiny_vocabulary_write(
    const struct tiny_vocabulary *tiny, size_t *n);

#endif
