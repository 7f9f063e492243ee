/* A value that one thread publishes and others read without a lock: nobody
 * waits for anybody, and what is read was published as a whole.
 *
 * The writer makes the version odd, writes the words, and makes it even again;
 * a reader that finds it odd, or changed behind the words, reads anew. So it is
 * for what is read much more seldom than a write takes. (A sequence lock, in
 * the form without fences of H.-J. Boehm, "Can seqlocks get along with
 * programming language memory models?", MSPC 2012.) */
#ifndef BASE_PUBLISHED_H
#define BASE_PUBLISHED_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define KV_PUBLISHED_WORDS 64

/* Zeroed: zeros are published. */
struct kv_published {
    _Atomic uint64_t version; /* odd while it is written */
    _Atomic uint64_t words[KV_PUBLISHED_WORDS];
};

/* One thread at a time. n_bytes is a multiple of 8, at most 8 for each word,
 * and the same for all who write and read this value. */
void kv_published_write(
    struct kv_published *published, const void *value, size_t n_bytes);

/* Any thread. Returns how often it had been written. */
uint64_t kv_published_read(
    const struct kv_published *published, void *value, size_t n_bytes);

#endif
