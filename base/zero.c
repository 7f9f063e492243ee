#include "base/zero.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

/* Waiting for the stores, at the end, costs more than they save on less. */
#define LEAST_BYTES 1024

static void zero_past_caches(unsigned char *at, size_t n_bytes)
{
    const __m128i zero = _mm_setzero_si128();

    for (const unsigned char *end = at + n_bytes; at < end; at += KV_ZERO_BYTES)
        for (size_t i = 0; i < KV_ZERO_BYTES; i += sizeof zero)
            _mm_stream_si128((__m128i *)(void *)(at + i), zero);
    /* They are not ordered with other stores but by this. */
    _mm_sfence();
}
#else
#define LEAST_BYTES SIZE_MAX

static void zero_past_caches(unsigned char *at, size_t n_bytes)
{
    memset(at, 0, n_bytes);
}
#endif

void kv_zero_cold(void *at, size_t n_bytes)
{
    assert((uintptr_t)at % KV_ZERO_BYTES == 0 && n_bytes % KV_ZERO_BYTES == 0);
    if (n_bytes < LEAST_BYTES)
        memset(at, 0, n_bytes);
    else
        zero_past_caches(at, n_bytes);
}
