/* What zeroing a block costs, with kv_zero_cold and with memset by turns:
 *
 *     bench_zero [repetitions]
 *
 * Prints GB/s of processor time for blocks of several sizes, each the median of
 * the repetitions (5 unless given): of those that lie anywhere in 1 GiB, as an
 * idle session's do, and of one that has just been written. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/zero.h"
#include "bench/measure.h"

#define TABLE_BYTES ((size_t)1 << 30)
#define BYTES_EACH ((size_t)256 << 20) /* zeroed for a figure */
#define MAX_REPETITIONS 99

typedef void (*zero_fn)(void *at, size_t n_bytes);

static void zero_by_memset(void *at, size_t n_bytes)
{
    memset(at, 0, n_bytes);
    /* The compiler must believe that somebody looks. */
    __asm__ volatile("" : : "r"(at) : "memory");
}

static void fail(const char *what)
{
    fprintf(stderr, "bench_zero: %s\n", what);
    exit(1);
}

/* GB/s; the blocks in an order that nothing foresees. */
static double anywhere(unsigned char *table, size_t block_bytes, zero_fn zero)
{
    const size_t n = BYTES_EACH / block_bytes;
    uint64_t random = 1;
    int64_t since_ns = measure_cpu_ns();

    for (size_t i = 0; i < n; i++) {
        random = random * UINT64_C(6364136223846793005) + 1;
        zero(table + (random >> 33) % (TABLE_BYTES / block_bytes) * block_bytes,
            block_bytes);
    }
    return (double)(n * block_bytes) / (double)(measure_cpu_ns() - since_ns);
}

/* The same of one block over and over; writing it is not counted, but what
 * asking the clock takes is. */
static double just_written(
    unsigned char *table, size_t block_bytes, zero_fn zero)
{
    const size_t n = BYTES_EACH / block_bytes / 8 + 1;
    int64_t spent_ns = 0;

    for (size_t i = 0; i < n; i++) {
        memset(table, 1, block_bytes);
        spent_ns -= measure_cpu_ns();
        zero(table, block_bytes);
        spent_ns += measure_cpu_ns();
    }
    return (double)(n * block_bytes) / (double)spent_ns;
}

static void measure(unsigned char *table, size_t block_bytes, int n_repetitions)
{
    static double gb_per_s[4][MAX_REPETITIONS];

    for (int i = 0; i < n_repetitions; i++) {
        gb_per_s[0][i] = anywhere(table, block_bytes, kv_zero_cold);
        gb_per_s[1][i] = anywhere(table, block_bytes, zero_by_memset);
        gb_per_s[2][i] = just_written(table, block_bytes, kv_zero_cold);
        gb_per_s[3][i] = just_written(table, block_bytes, zero_by_memset);
    }
    printf("%10zu", block_bytes >> 10);
    for (int i = 0; i < 4; i++)
        printf(" %12.1f", measure_median(gb_per_s[i], (size_t)n_repetitions));
    printf("\n");
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {4 << 10, 48 << 10, 384 << 10, 2 << 20};
    int n_repetitions = argc > 1 ? atoi(argv[1]) : 5;
    unsigned char *memory, *table;

    if (argc > 2 || n_repetitions < 1 || n_repetitions > MAX_REPETITIONS)
        fail("usage: bench_zero [repetitions, 1 to 99]");
    memory = kv_calloc_table(TABLE_BYTES + KV_ZERO_BYTES, 1);
    if (memory == NULL)
        fail("1 GiB of memory is needed");
    table = memory + KV_ZERO_BYTES - (uintptr_t)memory % KV_ZERO_BYTES;
    memset(table, 1, TABLE_BYTES);
    printf("GB/s of processor time, median of %d\n\n%10s %25s %25s\n"
           "%10s %12s %12s %12s %12s\n",
        n_repetitions, "", "anywhere in 1 GiB", "just written", "KiB",
        "zero_cold", "memset", "zero_cold", "memset");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        measure(table, sizes[i], n_repetitions);
    kv_free(memory);
    return 0;
}
