/* Simulates pool and ledger: many plans, each in a process of its own, so that
 * whatever goes wrong there, a broken law, an assertion or a sanitizer's
 * finding, is one plan that failed.
 *
 *     sim [--steps N] [--seed N]   plans of 3,000 operations, N in all (60,000)
 *     sim --replay FILE            the plan of a file, in this process
 *
 * A plan that fails is made as small as it gets and printed; the print is a
 * file for --replay. The first seed is printed, and comes from the clock unless
 * it is given; plans have seeds that follow one another. The first plan is run
 * twice and must issue the same receipts, byte for byte. */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/shrink.h"
#include "tests/sim/world.h"

#define PLAN_OPS 3000
#define PLAN_LIMIT_S 120 /* one that takes longer goes round in circles */
#define WALKED 50000     /* operations after which everything has happened */

/* Of the plan that runs; shared with its process. */
static struct tally *tally;

/* ---- one plan */

static void run_here(const struct plan *plan, bool loud)
{
    if (!loud && freopen("/dev/null", "w", stderr) == NULL)
        _exit(2);
    alarm(PLAN_LIMIT_S);
    world_run(plan, tally);
    exit(EXIT_SUCCESS);
}

static bool fails(const struct plan *plan, bool loud)
{
    int status = 0;
    pid_t child;

    fflush(NULL);
    memset(tally, 0, sizeof *tally);
    child = fork();
    if (child < 0) {
        perror("sim: fork");
        exit(2);
    }
    if (child == 0)
        run_here(plan, loud);
    waitpid(child, &status, 0);
    return status != 0;
}

static bool fails_quietly(const struct plan *plan)
{
    return fails(plan, false);
}

static void show_failure(struct plan *plan, uint64_t seed)
{
    /* What comes after the failure has no part in it. */
    if (tally->n_ops < plan->n_ops)
        plan->n_ops = tally->n_ops + 1;
    shrink_plan(plan, fails_quietly);
    printf("# seed %" PRIu64 "; to run it again: sim --replay FILE\n", seed);
    plan_print(plan, stdout);
    fails(plan, true);
}

/* ---- many */

static void add(struct tally *sum)
{
    const uint64_t *from = (const uint64_t *)tally;
    uint64_t *to = (uint64_t *)sum;

    for (size_t i = 0; i < offsetof(struct tally, root) / sizeof *to; i++)
        to[i] += from[i];
}

static bool print_tally(const struct tally *sum)
{
    const struct {
        const char *what;
        uint64_t n;
    } rows[] = {
        {"evicted by hand", sum->n_evictions[POOL_REASON_MANUAL]},
        {"evicted for room", sum->n_evictions[POOL_REASON_LRU]},
        {"evicted by time", sum->n_evictions[POOL_REASON_TTL]},
        {"set aside", sum->n_evictions[POOL_REASON_PRESSURE]},
        {"set aside in all", sum->n_preempted},
        {"reserved", sum->n_reserved},
        {"had to wait for room", sum->n_busy},
        {"found the pool full", sum->n_full},
        {"were over quota", sum->n_over},
        {"evicted for quotas", sum->n_evictions[POOL_REASON_QUOTA]},
        {"took over blocks", sum->n_adopted},
        {"blocks seen shared", sum->n_shared},
        {"sessions seen held", sum->n_held},
        {"gone by time", sum->n_expired},
        {"refused", sum->n_refused},
        {"memory ran out", sum->n_starved},
        {"dry runs", sum->n_dry},
        {"forgotten", sum->n_forgotten},
        {"sweeps' slices", sum->n_swept},
        {"beginnings were left", sum->n_beginnings},
        {"Evict by session", sum->n_by_selector[0]},
        {"Evict by tenant", sum->n_by_selector[1]},
        {"Evict by prefix", sum->n_by_selector[2]},
        {"Evict by idle time", sum->n_by_selector[3]},
        {"Evict by bytes", sum->n_by_selector[4]},
        {"Evict all", sum->n_by_selector[5]},
        {"receipts", sum->n_receipts},
        {"states compared with the receipts'", sum->n_truths},
    };
    bool everywhere = true;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("%12" PRIu64 " %s\n", rows[i].n, rows[i].what);
        everywhere = everywhere && rows[i].n > 0;
    }
    return everywhere;
}

static bool issues_the_same(const struct plan *plan)
{
    uint8_t root[sizeof tally->root];

    memcpy(root, tally->root, sizeof root);
    return !fails(plan, true) && memcmp(root, tally->root, sizeof root) == 0;
}

static int simulate(uint64_t seed, uint64_t n_steps)
{
    struct tally sum = {.n_ops = 0};

    printf("seed %" PRIu64 "\n", seed);
    for (uint64_t i = 0; sum.n_ops < n_steps; i++) {
        /* Static, for a leak checker in the child finds it there. */
        static struct plan plan;

        plan_draw(&plan, seed + i, PLAN_OPS);
        if (fails(&plan, true)) {
            show_failure(&plan, seed + i);
            return EXIT_FAILURE;
        }
        add(&sum);
        if (i == 0 && !issues_the_same(&plan)) {
            printf("seed %" PRIu64 ": other receipts the second time\n", seed);
            return EXIT_FAILURE;
        }
        plan_free(&plan);
    }
    printf("%12" PRIu64 " operations\n", sum.n_ops);
    if (!print_tally(&sum) && n_steps >= WALKED) {
        printf("something never happened\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

static int replay(const char *path)
{
    FILE *file = fopen(path, "r");
    struct plan plan;

    if (file == NULL) {
        perror(path);
        return 2;
    }
    if (!plan_read(&plan, file)) {
        fclose(file);
        return 2;
    }
    fclose(file);
    world_run(&plan, tally);
    plan_free(&plan);
    printf("every law held\n");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"steps", required_argument, NULL, 'n'},
        {"replay", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    uint64_t seed = (uint64_t)time(NULL) * 2654435761u % 1000000000;
    uint64_t n_steps = 60000;
    const char *file = NULL;
    int option;

    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED)
        return 2;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'n')
            n_steps = strtoull(optarg, NULL, 10);
        else if (option == 'r')
            file = optarg;
        else
            return 64;
    }
    return file != NULL ? replay(file) : simulate(seed, n_steps);
}
