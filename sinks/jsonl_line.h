/* Lines of JSON that are in a file: where they are, and which receipt one is.
 *
 * Thread: any; they wait for the disk. */
#ifndef SINKS_JSONL_LINE_H
#define SINKS_JSONL_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct jsonl_line {
    uint64_t sequence;
    int64_t unix_ns;
    uint8_t pool_id[16];
};

/* Where the line begins that has its last byte before `end`: behind the newline
 * before that. false: errno says why. */
bool jsonl_line_begin(int fd, uint64_t end, uint64_t *begin);

/* The end of the line that begins there, its newline included, in a file of so
 * many bytes. false: errno says why. */
bool jsonl_line_end(int fd, uint64_t begin, uint64_t size, uint64_t *end);

/* The receipt that the bytes [begin, end) are. KV_INVALID: they are none;
 * KV_IO: errno says why; KV_NO_MEMORY. */
enum kv_status jsonl_line_read(
    int fd, uint64_t begin, uint64_t end, struct jsonl_line *line);

#endif
