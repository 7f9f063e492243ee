/* How fast a model computes: prompts, one sequence, several at a time.
 *
 *     bench_engine [-t THREADS] [-r REPETITIONS] [-k KERNELS] MODEL.gguf ROW...
 *     bench_engine [...] -p MODEL.gguf ROW...
 *     bench_engine [...] -i MODEL.gguf ROW... <INDICES
 *
 * A row is ppN, a prompt of N tokens; tgN, N sequences that each take one token
 * after the other; either with @D behind it, after D tokens that are there
 * already. Prints a table of tokens per second, each the median of the
 * repetitions (5 unless given), and beside it what memory would allow if that
 * were all: the bytes of weights, keys and values that a step must read, at the
 * rate at which the same threads read memory when they do nothing else. K and V
 * are F16; what lies there before is not of the model, which costs the same.
 *
 * With -p a table follows each row's, of where its time went (bench/phases.h).
 *
 * With -i it measures what it is told to, a row's index from 0 on in a line, so
 * that others can take turns with it; a line of the table answers each. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "bench/measure.h"
#include "bench/phases.h"
#include "engine/compute.h"
#include "engine/team.h"

#define BLOCK_TOKENS 16
#define N_STEPS 32 /* of decoding */
#define MAX_N 512  /* tokens of a prompt, or sequences */
#define MAX_DEPTH 65536
#define MAX_ROWS 32
#define MAX_REPETITIONS 99
#define READ_BYTES ((size_t)256 << 20)
#define READ_REPETITIONS 15
#define READ_STREAMS 4 /* a thread follows; one alone gets less from memory */

struct row {
    const char *text;
    bool is_prompt;
    uint32_t n; /* tokens of the prompt, or sequences */
    uint32_t depth;
};

struct bench {
    struct model *model;
    struct compute *compute;
    unsigned char *arena;
    uint32_t *blocks; /* [sequences][blocks of one], of the greatest row */
    const char *kernels;
    uint32_t n_threads, n_repetitions;
    bool is_told; /* which row comes next */
    bool tells_phases;
    struct row rows[MAX_ROWS];
    size_t n_rows;
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

static uint32_t n_sequences(const struct row *row)
{
    return row->is_prompt ? 1 : row->n;
}

/* That one sequence needs. */
static uint32_t n_blocks(const struct row *row)
{
    const uint32_t n_new = row->is_prompt ? row->n : N_STEPS;

    return (row->depth + n_new + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

static void make_arena(struct bench *bench, size_t block_bytes)
{
    size_t n = 0;

    for (size_t i = 0; i < bench->n_rows; i++) {
        const struct row *row = &bench->rows[i];
        const size_t needed = (size_t)n_sequences(row) * n_blocks(row);

        n = needed > n ? needed : n;
    }
    bench->arena = kv_calloc(n, block_bytes);
    bench->blocks = kv_calloc(n, sizeof *bench->blocks);
    if (bench->arena == NULL || bench->blocks == NULL)
        fail("no memory for keys and values");
    memset(bench->arena, 0x11, n * block_bytes); /* small numbers of F16 */
    for (size_t i = 0; i < n; i++)
        bench->blocks[i] = (uint32_t)i;
}

static void bench_open(struct bench *bench, const char *path)
{
    struct compute_config config = {
        .block_tokens = BLOCK_TOKENS,
        .kv_type = KV_TYPE_F16,
        .n_threads = bench->n_threads,
        .max_batch_tokens = MAX_N,
        .max_slices = MAX_N,
        .kernels = bench->kernels,
    };
    struct kv_error error;

    must(model_open(&bench->model, path, &error), &error);
    config.model = bench->model;
    config.block_bytes =
        kv_block_bytes(&bench->model->shape, KV_TYPE_F16, BLOCK_TOKENS);
    make_arena(bench, config.block_bytes);
    config.arena = bench->arena;
    must(compute_open(&bench->compute, &config, &error), &error);
}

static void run_prompt(const struct bench *bench, const struct row *row)
{
    uint32_t tokens[MAX_N];
    struct compute_slice slice = {
        .tokens = tokens,
        .n_tokens = row->n,
        .position = row->depth,
        .blocks = bench->blocks,
        .samples = true,
    };

    for (uint32_t i = 0; i < row->n; i++)
        tokens[i] = (i * 7919 + 1) % bench->model->shape.n_vocab;
    compute_run(bench->compute, &slice, 1);
}

static void run_sequences(const struct bench *bench, const struct row *row)
{
    uint32_t tokens[MAX_N];
    struct compute_slice slices[MAX_N];

    for (uint32_t s = 0; s < row->n; s++)
        tokens[s] = s + 1;
    for (uint32_t step = 0; step < N_STEPS; step++) {
        for (uint32_t s = 0; s < row->n; s++)
            slices[s] = (struct compute_slice){
                .tokens = &tokens[s],
                .n_tokens = 1,
                .position = row->depth + step,
                .blocks = bench->blocks + (size_t)s * n_blocks(row),
                .samples = true,
            };
        compute_run(bench->compute, slices, row->n);
        for (uint32_t s = 0; s < row->n; s++)
            tokens[s] = slices[s].next_token;
    }
}

static double seconds_of(const struct bench *bench, const struct row *row)
{
    const int64_t began = kv_clock_mono_ns();

    if (row->is_prompt)
        run_prompt(bench, row);
    else
        run_sequences(bench, row);
    return (double)(kv_clock_mono_ns() - began) * 1e-9;
}

struct reading {
    struct team *team;
    const uint64_t *words;
    _Atomic uint64_t sum;
    double seconds;
};

/* Items are words of a stream. */
static void read_words(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    const size_t stream = READ_BYTES / sizeof(uint64_t) / READ_STREAMS;
    struct reading *reading = ctx;
    const uint64_t *words = reading->words;
    uint64_t sums[READ_STREAMS] = {0};

    (void)thread;
    for (size_t i = begin; i < end; i++)
        for (size_t s = 0; s < READ_STREAMS; s++)
            sums[s] += words[s * stream + i];
    for (size_t s = 0; s < READ_STREAMS; s++)
        reading->sum += sums[s];
}

static void run_reading(void *ctx)
{
    struct reading *reading = ctx;
    const int64_t began = kv_clock_mono_ns();

    team_each(reading->team, READ_BYTES / sizeof(uint64_t) / READ_STREAMS,
        1 << 16, read_words, reading);
    reading->seconds = (double)(kv_clock_mono_ns() - began) * 1e-9;
}

/* Bytes a second that the threads read from memory: a bound, so the best of
 * several times. */
static double read_bandwidth(const struct bench *bench)
{
    void *data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct reading reading = {.words = data};
    struct kv_error error;
    double least = INFINITY;

    if (data == MAP_FAILED)
        fail("no memory to read");
    (void)madvise(data, READ_BYTES, MADV_HUGEPAGE);
    memset(data, 1, READ_BYTES);
    must(team_open(&reading.team, bench->n_threads, 0, &error), &error);
    for (int i = 0; i < READ_REPETITIONS; i++) {
        team_run(reading.team, run_reading, &reading);
        least = fmin(least, reading.seconds);
    }
    team_close(reading.team);
    munmap(data, READ_BYTES);
    return READ_BYTES / least;
}

/* What a step of the row must read, at least. */
static double step_bytes(const struct bench *bench, const struct row *row)
{
    const struct model_shape *shape = &bench->model->shape;
    double sum = phases_weight_bytes(&bench->model->output);

    for (uint32_t i = 0; i < shape->n_layers; i++) {
        const struct model_layer *layer = &bench->model->layers[i];

        sum += phases_weight_bytes(&layer->q) + phases_weight_bytes(&layer->k) +
               phases_weight_bytes(&layer->v) +
               phases_weight_bytes(&layer->attn_output) +
               phases_weight_bytes(&layer->gate) +
               phases_weight_bytes(&layer->up) +
               phases_weight_bytes(&layer->down);
    }
    return sum + (double)kv_bytes_per_token(shape, KV_TYPE_F16) *
                     n_sequences(row) * row->depth;
}

static void measure(
    const struct bench *bench, const struct row *row, double bandwidth)
{
    const uint32_t n_steps = row->is_prompt ? 1 : N_STEPS;
    double seconds[MAX_REPETITIONS];

    seconds_of(bench, row); /* what is new to the caches, and to the clock */
    phases_watch(bench->tells_phases);
    for (uint32_t i = 0; i < bench->n_repetitions; i++)
        seconds[i] = seconds_of(bench, row);
    phases_watch(false);
    printf("| %s | %.1f | %.1f |\n", row->text,
        (double)row->n * n_steps /
            measure_median(seconds, bench->n_repetitions),
        row->n * bandwidth / step_bytes(bench, row));
    if (bench->tells_phases)
        phases_print(row->text);
    fflush(stdout);
}

static void measure_told(const struct bench *bench, double bandwidth)
{
    size_t i;

    while (scanf("%zu", &i) == 1 && i < bench->n_rows)
        measure(bench, &bench->rows[i], bandwidth);
}

static void run(const struct bench *bench)
{
    const double bandwidth = read_bandwidth(bench);

    printf("%s, %" PRIu64 " parameters, kernels %s, %" PRIu32
           " threads, which read %.1f GB/s; medians of %" PRIu32 "\n\n",
        bench->model->name, bench->model->n_parameters,
        compute_kernels(bench->compute), bench->n_threads, bandwidth * 1e-9,
        bench->n_repetitions);
    printf("| row | tokens/s | memory allows |\n|---|---|---|\n");
    fflush(stdout);
    if (bench->is_told)
        measure_told(bench, bandwidth);
    else
        for (size_t i = 0; i < bench->n_rows; i++)
            measure(bench, &bench->rows[i], bandwidth);
}

static uint32_t number_of(const char *text, char **end, uint32_t max)
{
    const unsigned long n = strtoul(text, end, 10);

    if (*end == text || n < 1 || n > max) {
        fprintf(stderr,
            "bench_engine: '%s' does not begin with 1 to %" PRIu32 "\n", text,
            max);
        exit(1);
    }
    return (uint32_t)n;
}

static void add_row(struct bench *bench, const char *text)
{
    struct row row = {
        .text = text,
        .is_prompt = strncmp(text, "pp", 2) == 0,
    };
    char *end;

    if (!row.is_prompt && strncmp(text, "tg", 2) != 0)
        fail("a row is ppN or tgN, with or without @DEPTH");
    row.n = number_of(text + 2, &end, MAX_N);
    if (*end == '@')
        row.depth = number_of(end + 1, &end, MAX_DEPTH);
    if (*end != '\0' || bench->n_rows == MAX_ROWS)
        fail("a row is ppN or tgN, with or without @DEPTH; 32 rows at most");
    bench->rows[bench->n_rows++] = row;
}

int main(int argc, char **argv)
{
    struct bench bench = {
        .n_threads = 2,
        .n_repetitions = 5,
        .kernels = "auto",
    };
    char *end;
    int option;

    while ((option = getopt(argc, argv, "ipt:r:k:")) != -1)
        if (option == 't')
            bench.n_threads = number_of(optarg, &end, MAX_REPETITIONS);
        else if (option == 'r')
            bench.n_repetitions = number_of(optarg, &end, MAX_REPETITIONS);
        else if (option == 'k')
            bench.kernels = optarg;
        else if (option == 'i')
            bench.is_told = true;
        else if (option == 'p')
            bench.tells_phases = true;
        else
            return 1;
    if (argc - optind < 2)
        fail("usage: bench_engine [-t THREADS] [-r REPETITIONS] [-k KERNELS] "
             "[-i] [-p] MODEL.gguf ROW...");
    for (int i = optind + 1; i < argc; i++)
        add_row(&bench, argv[i]);
    bench_open(&bench, argv[optind]);
    phases_open(bench.model, bench.n_threads);
    run(&bench);
    phases_close();
    compute_close(bench.compute);
    model_close(bench.model);
    kv_free(bench.arena);
    kv_free(bench.blocks);
    return 0;
}
