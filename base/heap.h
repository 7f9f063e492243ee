/* The one door to malloc, so a test can shut it. */
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stddef.h>

struct kv_heap {
    void *(*calloc)(size_t n, size_t size);
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr);
};

/* Call before the first allocation, or between tests; NULL restores libc. The
 * heap is borrowed. Not thread-safe; the heap's functions must be. */
void kv_heap_use(const struct kv_heap *heap);

/* Zeroed; n * size is checked. NULL when there is no memory. */
void *kv_calloc(size_t n, size_t size);

/* The same for a table that is looked up at random: a large one lies in huge
 * pages, where the system has them, so that a look costs one miss and not two.
 */
void *kv_calloc_table(size_t n, size_t size);

/* New bytes are not zeroed; on NULL the old memory is as it was. */
void *kv_realloc(void *ptr, size_t size);

/* Nobody may touch these bytes of an allocation, or everybody again, which is
 * how things begin; of no effect but where AddressSanitizer watches, for what
 * is handed out anew without kv_free. Both ends are multiples of 8. */
void kv_heap_forbid(void *ptr, size_t size);
void kv_heap_allow(void *ptr, size_t size);

/* NULL is fine. */
void kv_free(void *ptr);

/* Copies of a string, or of n bytes with a NUL behind. */
char *kv_strdup(const char *text);
char *kv_strndup(const char *text, size_t n);

#endif
