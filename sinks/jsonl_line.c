#include "sinks/jsonl_line.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/heap.h"

enum {
    BLOCK_BYTES = 65536,      /* read at once, when looking for a line */
    MAX_LINE_BYTES = 4194304, /* a receipt of 64 KiB is far shorter */
};

static bool read_at(int fd, char *bytes, size_t n, uint64_t offset)
{
    while (n > 0) {
        ssize_t got = pread(fd, bytes, n, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got < 0 ? errno : EIO;
            return false;
        }
        bytes += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

bool jsonl_line_begin(int fd, uint64_t end, uint64_t *begin)
{
    char block[BLOCK_BYTES];
    uint64_t at = end;

    while (at > 0) {
        size_t n = at < sizeof block ? (size_t)at : sizeof block;
        const char *newline;

        at -= n;
        if (!read_at(fd, block, n, at))
            return false;
        newline = memrchr(block, '\n', n);
        if (newline != NULL) {
            *begin = at + (uint64_t)(newline - block) + 1;
            return true;
        }
    }
    *begin = 0;
    return true;
}

bool jsonl_line_end(int fd, uint64_t begin, uint64_t size, uint64_t *end)
{
    char block[BLOCK_BYTES];

    for (uint64_t at = begin; at < size; at += sizeof block) {
        size_t n =
            size - at < sizeof block ? (size_t)(size - at) : sizeof block;
        const char *newline;

        if (!read_at(fd, block, n, at))
            return false;
        newline = memchr(block, '\n', n);
        if (newline != NULL) {
            *end = at + (uint64_t)(newline - block) + 1;
            return true;
        }
    }
    *end = size;
    return true;
}

static uint8_t nibble(char digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static bool parse_hex(const char *text, uint8_t bytes[16])
{
    if (text == NULL || strspn(text, "0123456789abcdef") != 32 ||
        text[32] != '\0')
        return false;
    for (int i = 0; i < 16; i++, text += 2)
        bytes[i] = (uint8_t)(nibble(text[0]) << 4 | nibble(text[1]));
    return true;
}

static bool parse_line(const char *text, size_t n, struct jsonl_line *line)
{
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    bool is_receipt =
        parse_hex(json_string_value(json_object_get(json, "pool_id")),
            line->pool_id) &&
        json_is_integer(json_object_get(json, "sequence")) &&
        json_is_integer(json_object_get(json, "time_unix_ns"));

    line->sequence =
        (uint64_t)json_integer_value(json_object_get(json, "sequence"));
    line->unix_ns = json_integer_value(json_object_get(json, "time_unix_ns"));
    json_decref(json);
    return is_receipt && line->sequence > 0;
}

enum kv_status jsonl_line_read(
    int fd, uint64_t begin, uint64_t end, struct jsonl_line *line)
{
    size_t n = end - begin <= MAX_LINE_BYTES ? (size_t)(end - begin) : 0;
    char *text = kv_calloc(1, n + 1);
    enum kv_status status = KV_OK;

    if (text == NULL)
        return KV_NO_MEMORY;
    if (!read_at(fd, text, n, begin))
        status = KV_IO;
    else if (!parse_line(text, n, line))
        status = KV_INVALID;
    kv_free(text);
    return status;
}
