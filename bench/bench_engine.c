/* How fast a model computes: a prompt, one sequence, several at a time.
 *
 *     bench_engine MODEL.gguf [threads [repetitions [kernels]]]
 *
 * Prints a table of tokens per second, each the median of the repetitions (5
 * unless given), and for decoding the gigabytes of weights per second that this
 * amounts to, beside what the same threads read from memory when they do
 * nothing else. K and V are F16; sequences start empty. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "engine/compute.h"
#include "engine/team.h"

#define BLOCK_TOKENS 16
#define N_PROMPT 128
#define N_STEPS 32 /* of decoding */
#define MAX_SEQUENCES 16
#define MAX_REPETITIONS 99
#define READ_BYTES ((size_t)256 << 20)
#define BLOCKS_PER_SEQUENCE (N_PROMPT / BLOCK_TOKENS)

struct bench {
    struct model *model;
    struct compute *compute;
    unsigned char *arena;
    uint32_t n_threads, n_repetitions;
};

static void fail(const char *what)
{
    fprintf(stderr, "bench_engine: %s\n", what);
    exit(1);
}

static void must(enum kv_status status, const struct kv_error *error)
{
    if (status != KV_OK)
        fail(error->text);
}

static void bench_open(
    struct bench *bench, const char *path, const char *kernels)
{
    struct compute_config config = {
        .block_tokens = BLOCK_TOKENS,
        .kv_type = KV_TYPE_F16,
        .n_threads = bench->n_threads,
        .max_batch_tokens = N_PROMPT,
        .max_slices = MAX_SEQUENCES,
        .kernels = kernels,
    };
    struct kv_error error;

    must(model_open(&bench->model, path, &error), &error);
    config.model = bench->model;
    config.block_bytes =
        kv_block_bytes(&bench->model->shape, KV_TYPE_F16, BLOCK_TOKENS);
    bench->arena =
        kv_calloc(MAX_SEQUENCES * BLOCKS_PER_SEQUENCE, config.block_bytes);
    if (bench->arena == NULL)
        fail("no memory for keys and values");
    config.arena = bench->arena;
    must(compute_open(&bench->compute, &config, &error), &error);
}

static void fill_blocks(uint32_t blocks[], uint32_t sequence)
{
    for (uint32_t i = 0; i < BLOCKS_PER_SEQUENCE; i++)
        blocks[i] = sequence * BLOCKS_PER_SEQUENCE + i;
}

/* Seconds for a prompt of N_PROMPT tokens. */
static double run_prefill(const struct bench *bench)
{
    uint32_t tokens[N_PROMPT], blocks[BLOCKS_PER_SEQUENCE];
    struct compute_slice slice = {
        .tokens = tokens,
        .n_tokens = N_PROMPT,
        .blocks = blocks,
        .samples = true,
    };
    int64_t began;

    fill_blocks(blocks, 0);
    for (uint32_t i = 0; i < N_PROMPT; i++)
        tokens[i] = (i * 7919 + 1) % bench->model->shape.n_vocab;
    began = kv_clock_mono_ns();
    compute_run(bench->compute, &slice, 1);
    return (double)(kv_clock_mono_ns() - began) * 1e-9;
}

/* Seconds for N_STEPS tokens of each of n sequences. */
static double run_decode(const struct bench *bench, uint32_t n)
{
    uint32_t blocks[MAX_SEQUENCES][BLOCKS_PER_SEQUENCE];
    uint32_t tokens[MAX_SEQUENCES];
    struct compute_slice slices[MAX_SEQUENCES];
    const int64_t began = kv_clock_mono_ns();

    for (uint32_t s = 0; s < n; s++) {
        fill_blocks(blocks[s], s);
        tokens[s] = s + 1;
    }
    for (uint32_t step = 0; step < N_STEPS; step++) {
        for (uint32_t s = 0; s < n; s++)
            slices[s] = (struct compute_slice){
                .tokens = &tokens[s],
                .n_tokens = 1,
                .position = step,
                .blocks = blocks[s],
                .samples = true,
            };
        compute_run(bench->compute, slices, n);
        for (uint32_t s = 0; s < n; s++)
            tokens[s] = slices[s].next_token;
    }
    return (double)(kv_clock_mono_ns() - began) * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double values[], uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

struct reading {
    struct team *team;
    uint64_t *data;
    _Atomic uint64_t sum;
    atomic_bool is_done;
    double seconds;
};

static void read_words(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct reading *reading = ctx;
    uint64_t sum = 0;

    (void)thread;
    for (size_t i = begin; i < end; i++)
        sum += reading->data[i];
    atomic_fetch_add(&reading->sum, sum);
}

static void run_reading(void *ctx)
{
    struct reading *reading = ctx;
    const int64_t began = kv_clock_mono_ns();

    team_each(reading->team, READ_BYTES / sizeof(uint64_t), 1 << 16, read_words,
        reading);
    reading->seconds = (double)(kv_clock_mono_ns() - began) * 1e-9;
    atomic_store(&reading->is_done, true);
}

/* Bytes a second that the threads read from memory. */
static double read_bandwidth(const struct bench *bench)
{
    struct reading reading = {.data = malloc(READ_BYTES)};
    struct kv_error error;
    double seconds[MAX_REPETITIONS];

    if (reading.data == NULL)
        fail("no memory to read");
    memset(reading.data, 1, READ_BYTES);
    must(team_open(&reading.team, bench->n_threads, 0, &error), &error);
    for (uint32_t i = 0; i < bench->n_repetitions; i++) {
        atomic_store(&reading.is_done, false);
        team_start(reading.team, run_reading, &reading);
        while (!atomic_load(&reading.is_done))
            usleep(1000);
        seconds[i] = reading.seconds;
    }
    team_close(reading.team);
    free(reading.data);
    return READ_BYTES / median(seconds, bench->n_repetitions);
}

static void print_row(const struct bench *bench, const char *what, uint32_t n,
    double seconds[], uint32_t n_tokens)
{
    const double middle = median(seconds, bench->n_repetitions);

    printf("| %s %" PRIu32 " | %.1f |", what, n, n_tokens / middle);
    if (n_tokens == N_PROMPT && n == N_PROMPT)
        printf(" |\n");
    else
        printf(" %.1f |\n",
            (double)bench->model->mapped_bytes * N_STEPS / middle * 1e-9);
}

static void run(const struct bench *bench)
{
    static const uint32_t batches[] = {1, 4, 8, 16};
    double seconds[MAX_REPETITIONS];

    printf("%s, %" PRIu64 " parameters, %.1f MB, kernels %s, %" PRIu32
           " threads, medians of %" PRIu32 "\n\n",
        bench->model->name, bench->model->n_parameters,
        (double)bench->model->mapped_bytes * 1e-6,
        compute_kernels(bench->compute), bench->n_threads,
        bench->n_repetitions);
    printf("| what | tokens/s | GB/s of weights |\n|---|---|---|\n");
    run_prefill(bench); /* brings the weights into memory */
    for (uint32_t i = 0; i < bench->n_repetitions; i++)
        seconds[i] = run_prefill(bench);
    print_row(bench, "prefill", N_PROMPT, seconds, N_PROMPT);
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        for (uint32_t i = 0; i < bench->n_repetitions; i++)
            seconds[i] = run_decode(bench, batches[b]);
        print_row(bench, "decode, sequences:", batches[b], seconds,
            batches[b] * N_STEPS);
    }
    printf("| (memory, read by as many threads) | | %.1f |\n",
        read_bandwidth(bench) * 1e-9);
}

static uint32_t number_of(const char *text, uint32_t max)
{
    char *end;
    const unsigned long n = strtoul(text, &end, 10);

    if (*text == '\0' || *end != '\0' || n < 1 || n > max)
        fail("threads and repetitions are numbers from 1 to 99");
    return (uint32_t)n;
}

int main(int argc, char **argv)
{
    struct bench bench = {.n_threads = 2, .n_repetitions = 5};

    if (argc < 2 || argc > 5)
        fail("usage: bench_engine MODEL.gguf "
             "[threads [repetitions [kernels]]]");
    if (argc > 2)
        bench.n_threads = number_of(argv[2], MAX_REPETITIONS);
    if (argc > 3)
        bench.n_repetitions = number_of(argv[3], MAX_REPETITIONS);
    bench_open(&bench, argv[1], argc > 4 ? argv[4] : "auto");
    run(&bench);
    compute_close(bench.compute);
    model_close(bench.model);
    kv_free(bench.arena);
    return 0;
}
