#include "bench/phases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "engine/packed.h"
#include "engine/team.h"

enum phase {
    PRODUCTS_QKV,
    PRODUCTS_OUTPUT,
    PRODUCTS_GATE_UP,
    PRODUCTS_DOWN,
    PRODUCTS_HEAD,
    ATTENTION,
    REST,
    CHOICE,
    N_PHASES,
};

static const char *const names[N_PHASES] = {
    [PRODUCTS_QKV] = "queries, keys, values",
    [PRODUCTS_OUTPUT] = "attention's output",
    [PRODUCTS_GATE_UP] = "gate and up",
    [PRODUCTS_DOWN] = "down",
    [PRODUCTS_HEAD] = "the model's output",
    [ATTENTION] = "attention",
    [REST] = "norms, rounding, activation, rotation, stores",
    [CHOICE] = "choosing the token",
};

/* Of a layer, in forward.c's order. */
static const enum phase layer_rounds[] = {REST, PRODUCTS_QKV, REST, ATTENTION,
    REST, PRODUCTS_OUTPUT, REST, PRODUCTS_GATE_UP, REST, PRODUCTS_DOWN};
#define N_LAYER_ROUNDS (sizeof layer_rounds / sizeof *layer_rounds)

struct round {
    enum phase phase;
    int64_t least_ns, sum_ns;
};

static struct {
    const struct model *model;
    struct round *rounds; /* of a step */
    size_t n_rounds;
    int64_t *busy_ns; /* [n_threads][N_PHASES], all steps */
    uint32_t n_threads;
    size_t at; /* the next round */
    uint64_t n_steps;
    bool watches;
} phases;

void phases_open(const struct model *model, uint32_t n_threads)
{
    const size_t n = 1 + model->shape.n_layers * N_LAYER_ROUNDS + 3;
    struct round *rounds = kv_calloc(n, sizeof *rounds);

    phases.busy_ns = kv_calloc((size_t)n_threads * N_PHASES, sizeof(int64_t));
    if (rounds == NULL || phases.busy_ns == NULL) {
        fputs("bench_engine: no memory for phases\n", stderr);
        exit(1);
    }
    for (size_t i = 0; i < n; i++)
        rounds[i].phase =
            i == 0 ? REST : layer_rounds[(i - 1) % N_LAYER_ROUNDS];
    rounds[n - 3].phase = REST;
    rounds[n - 2].phase = PRODUCTS_HEAD;
    rounds[n - 1].phase = CHOICE;
    phases.model = model;
    phases.rounds = rounds;
    phases.n_rounds = n;
    phases.n_threads = n_threads;
}

void phases_close(void)
{
    kv_free(phases.rounds);
    kv_free(phases.busy_ns);
}

void phases_watch(bool watches)
{
    phases.watches = watches;
    if (!watches)
        return;
    phases.at = phases.n_steps = 0;
    for (size_t i = 0; i < phases.n_rounds; i++) {
        phases.rounds[i].least_ns = INT64_MAX;
        phases.rounds[i].sum_ns = 0;
    }
    memset(phases.busy_ns, 0,
        (size_t)phases.n_threads * N_PHASES * sizeof *phases.busy_ns);
}

/* ---- a round */

struct timed {
    team_job_cb job;
    void *ctx;
    enum phase phase;
};

static void run_timed(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    const struct timed *timed = ctx;
    const int64_t began = kv_clock_mono_ns();

    timed->job(timed->ctx, begin, end, thread);
    phases.busy_ns[thread * N_PHASES + timed->phase] +=
        kv_clock_mono_ns() - began;
}

/* Names that the linker gives. */
void __real_team_each(struct team *team, size_t n_items, size_t chunk,
    team_job_cb job, void *ctx);
void __wrap_team_each(struct team *team, size_t n_items, size_t chunk,
    team_job_cb job, void *ctx);

void __wrap_team_each(
    struct team *team, size_t n_items, size_t chunk, team_job_cb job, void *ctx)
{
    struct timed timed = {job, ctx, REST};
    struct round *round;
    int64_t took;

    if (!phases.watches) {
        __real_team_each(team, n_items, chunk, job, ctx);
        return;
    }
    round = &phases.rounds[phases.at];
    timed.phase = round->phase;
    took = kv_clock_mono_ns();
    __real_team_each(team, n_items, chunk, run_timed, &timed);
    took = kv_clock_mono_ns() - took;
    round->sum_ns += took;
    round->least_ns = took < round->least_ns ? took : round->least_ns;
    phases.at = (phases.at + 1) % phases.n_rounds;
    phases.n_steps += phases.at == 0;
}

/* ---- what came of it */

double phases_weight_bytes(const struct weight *weight)
{
    struct packed packed;

    if (packed_plan(&packed, weight))
        return (double)packed_n_panels(&packed) * (double)packed.panel_bytes;
    return (double)weight_bytes(weight);
}

static double phase_bytes(enum phase phase)
{
    double n = 0;

    if (phase == PRODUCTS_HEAD)
        return phases_weight_bytes(&phases.model->output);
    for (uint32_t i = 0; i < phases.model->shape.n_layers; i++) {
        const struct model_layer *layer = &phases.model->layers[i];

        if (phase == PRODUCTS_QKV)
            n += phases_weight_bytes(&layer->q) +
                 phases_weight_bytes(&layer->k) +
                 phases_weight_bytes(&layer->v);
        else if (phase == PRODUCTS_OUTPUT)
            n += phases_weight_bytes(&layer->attn_output);
        else if (phase == PRODUCTS_GATE_UP)
            n += phases_weight_bytes(&layer->gate) +
                 phases_weight_bytes(&layer->up);
        else if (phase == PRODUCTS_DOWN)
            n += phases_weight_bytes(&layer->down);
    }
    return n;
}

struct sums {
    uint32_t n_rounds;
    double least_ms, mean_ms, busy_ms, bytes;
};

static void add(struct sums *sums, enum phase phase)
{
    const double n_steps = (double)phases.n_steps;

    for (size_t i = 0; i < phases.n_rounds; i++)
        if (phases.rounds[i].phase == phase) {
            sums->n_rounds++;
            sums->least_ms += (double)phases.rounds[i].least_ns * 1e-6;
            sums->mean_ms += (double)phases.rounds[i].sum_ns * 1e-6 / n_steps;
        }
    for (uint32_t t = 0; t < phases.n_threads; t++)
        sums->busy_ms +=
            (double)phases.busy_ns[t * N_PHASES + phase] * 1e-6 / n_steps;
    sums->bytes += phase_bytes(phase);
}

static void print_line(const char *name, const struct sums *sums)
{
    printf("| %s | %" PRIu32 " | %.3f | %.3f | ", name, sums->n_rounds,
        sums->least_ms, sums->mean_ms);
    if (sums->bytes > 0)
        printf("%.1f | %.1f", sums->bytes / sums->least_ms * 1e-6,
            sums->bytes / sums->mean_ms * 1e-6);
    else
        printf(" | ");
    printf(" | %.0f%% |\n",
        100 * sums->busy_ms / (sums->mean_ms * phases.n_threads));
}

void phases_print(const char *row)
{
    struct sums all = {0};

    printf("\n%s: %" PRIu64 " steps, milliseconds of each\n\n"
           "| phase | rounds | least | mean | GB/s at the least | mean GB/s | "
           "threads busy |\n|---|---|---|---|---|---|---|\n",
        row, phases.n_steps);
    for (enum phase phase = 0; phase < N_PHASES; phase++) {
        struct sums sums = {0};

        add(&sums, phase);
        add(&all, phase);
        print_line(names[phase], &sums);
    }
    print_line("all", &all);
    printf("\n");
    fflush(stdout);
}
