#include "base/zero.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

static void zero(unsigned char *at, size_t n_bytes)
{
    const __m128i zeros = _mm_setzero_si128();

    for (const unsigned char *end = at + n_bytes; at < end; at += KV_ZERO_BYTES)
        for (size_t i = 0; i < KV_ZERO_BYTES; i += sizeof zeros)
            _mm_stream_si128((__m128i *)(void *)(at + i), zeros);
    /* They are not ordered with other stores but by this. */
    _mm_sfence();
}
#else
static void zero(unsigned char *at, size_t n_bytes)
{
    memset(at, 0, n_bytes);
}
#endif

void kv_zero_cold(void *at, size_t n_bytes)
{
    assert((uintptr_t)at % KV_ZERO_BYTES == 0 && n_bytes % KV_ZERO_BYTES == 0);
    zero(at, n_bytes);
}
