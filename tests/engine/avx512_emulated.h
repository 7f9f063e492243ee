/* Comes before all else where the AVX-512 kernels are compiled for a processor
 * that has AVX2 only: what they take from <immintrin.h> is then SIMDe's, in
 * AVX2 and C. Three that Debian 12's release lacks are here, from their
 * definition.
 *
 * kernels.c with it finds that the processor has AVX-512. */
#ifndef TESTS_ENGINE_AVX512_EMULATED_H
#define TESTS_ENGINE_AVX512_EMULATED_H

#include <stdbool.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_CHECK_IMMEDIATE_CONSTANT
#include <simde/x86/avx512.h>

#define __builtin_cpu_supports(feature)                                        \
    (strncmp(feature, "avx512", strlen("avx512")) == 0 ||                      \
        __builtin_cpu_supports(feature))

#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_cvtph_ps emulated_cvtph_ps

static inline __m512 emulated_cvtepi32_ps(__m512i a)
{
    const simde__m512i_private from = simde__m512i_to_private(a);
    simde__m512_private to;

    for (int i = 0; i < 16; i++)
        to.f32[i] = (float)from.i32[i];
    return simde__m512_from_private(to);
}

static inline __m512i emulated_cvtepi8_epi32(__m128i a)
{
    const simde__m128i_private from = simde__m128i_to_private(a);
    simde__m512i_private to;

    for (int i = 0; i < 16; i++)
        to.i32[i] = from.i8[i];
    return simde__m512i_from_private(to);
}

static inline __m512 emulated_cvtph_ps(__m256i a)
{
    const simde__m256i_private from = simde__m256i_to_private(a);
    simde__m512_private to;

    for (int i = 0; i < 2; i++)
        to.m256[i] = _mm256_cvtph_ps(from.m128i[i]);
    return simde__m512_from_private(to);
}

#endif
