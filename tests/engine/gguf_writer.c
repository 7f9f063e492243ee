#include "tests/engine/gguf_writer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void gguf_put(struct gguf_writer *writer, const void *data, size_t n)
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

void gguf_put_u32(struct gguf_writer *writer, uint32_t value)
{
    gguf_put(writer, &value, sizeof value);
}

void gguf_put_u64(struct gguf_writer *writer, uint64_t value)
{
    gguf_put(writer, &value, sizeof value);
}

void gguf_put_text(struct gguf_writer *writer, const char *text)
{
    gguf_put_u64(writer, strlen(text));
    gguf_put(writer, text, strlen(text));
}
