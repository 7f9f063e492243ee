/* Bytes of a GGUF file, put one behind the other: for tests that write models.
 * They are malloc'd and the caller's to free. Thread: any. */
#ifndef TESTS_ENGINE_GGUF_WRITER_H
#define TESTS_ENGINE_GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

struct gguf_writer {
    unsigned char *bytes;
    size_t n, n_max;
    uint64_t n_keys; /* for who writes keys to count */
};

void gguf_put(struct gguf_writer *writer, const void *data, size_t n);
void gguf_put_u32(struct gguf_writer *writer, uint32_t value);
void gguf_put_u64(struct gguf_writer *writer, uint64_t value);
/* Its length in bytes, then the text. */
void gguf_put_text(struct gguf_writer *writer, const char *text);

#endif
