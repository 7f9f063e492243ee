#include "engine/kernels.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>

/* AVX2 with FMA and F16C, and an operating system that keeps the registers
 * (which the builtin looks after). */
static bool avx2_runs(void)
{
    unsigned eax, ebx, ecx, edx;

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

/* These go with AVX2, whose kernels are part of the set. */
static bool avx512_runs(void)
{
    return avx2_runs() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif

static bool always_runs(void)
{
    return true;
}

/* Fastest first. */
static const struct {
    const struct kernels *kernels;
    bool (*runs)(void);
} sets[] = {
#ifdef __x86_64__
    {&kernels_avx512, avx512_runs},
    {&kernels_avx2, avx2_runs},
#endif
#ifdef __aarch64__
    {&kernels_neon, always_runs}, /* every one of them has NEON */
#endif
    {&kernels_scalar, always_runs},
};

#define N_SETS (sizeof sets / sizeof *sets)

enum kv_status kernels_choose(
    const struct kernels **out, const char *name, struct kv_error *error)
{
    for (size_t i = 0; i < N_SETS; i++) {
        const bool any = strcmp(name, "auto") == 0;

        if (!any && strcmp(name, sets[i].kernels->name) != 0)
            continue;
        if (sets[i].runs()) {
            *out = sets[i].kernels;
            return KV_OK;
        }
        if (!any)
            return kv_error_set(error, KV_UNSUPPORTED,
                "kernels %s: this processor cannot run them", name);
    }
    return kv_error_set(error, KV_UNSUPPORTED,
        "kernels %s: not known here; there are auto, scalar, avx2 and avx512 "
        "(x86-64), and neon (aarch64)",
        name);
}

kernel_matmul_cb kernels_matmul(
    const struct kernels *kernels, enum gguf_tensor_type type)
{
    switch (type) {
    case GGUF_F32:
        return kernels->matmul_f32;
    case GGUF_F16:
        return kernels->matmul_f16;
    case GGUF_BF16:
        return kernels->matmul_bf16;
    case GGUF_Q8_0:
    case GGUF_Q4_0:
    case GGUF_TQ1_0:
    case GGUF_TQ2_0:
    case GGUF_I2_S:
        return kernels->matmul_integers;
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K:
        return kernels->matmul_super;
    }
    assert(false && "a tensor type that model_open lets through");
    return NULL;
}

unsigned kernels_format(enum gguf_tensor_type type)
{
    switch (type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16:
        return ACTIVATION_F32;
    case GGUF_Q8_0:
    case GGUF_Q4_0:
        return ACTIVATION_SMALL;
    case GGUF_TQ1_0:
    case GGUF_TQ2_0:
    case GGUF_I2_S:
        return ACTIVATION_LARGE;
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K:
        return ACTIVATION_LARGE | ACTIVATION_PARTS;
    }
    assert(false && "a tensor type that model_open lets through");
    return ACTIVATION_F32;
}
