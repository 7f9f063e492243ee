#include "base/published.h"

#include <assert.h>
#include <string.h>

/* Each word is stored with release and loaded with acquire: whoever sees a new
 * word also sees that the version had become odd before it. */

void kv_published_write(
    struct kv_published *published, const void *value, size_t n_bytes)
{
    const uint64_t version =
        atomic_load_explicit(&published->version, memory_order_relaxed);

    assert(n_bytes % 8 == 0 && n_bytes <= sizeof published->words);
    atomic_store_explicit(
        &published->version, version + 1, memory_order_relaxed);
    for (size_t i = 0; i < n_bytes / 8; i++) {
        uint64_t word;

        memcpy(&word, (const char *)value + 8 * i, 8);
        atomic_store_explicit(&published->words[i], word, memory_order_release);
    }
    atomic_store_explicit(
        &published->version, version + 2, memory_order_release);
}

uint64_t kv_published_read(
    const struct kv_published *published, void *value, size_t n_bytes)
{
    uint64_t before, after;

    assert(n_bytes % 8 == 0 && n_bytes <= sizeof published->words);
    do {
        before =
            atomic_load_explicit(&published->version, memory_order_acquire);
        for (size_t i = 0; i < n_bytes / 8; i++) {
            const uint64_t word = atomic_load_explicit(
                &published->words[i], memory_order_acquire);

            memcpy((char *)value + 8 * i, &word, 8);
        }
        after = atomic_load_explicit(&published->version, memory_order_relaxed);
    } while (before % 2 != 0 || before != after);
    return before / 2;
}
