#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/compute.h"
#include "engine/residency.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"

struct told {
    const char *stage;
    uint64_t n_done, n_all;
    size_t n_times;
};

static void on_progress(
    void *ctx, const char *stage, uint64_t n_done, uint64_t n_all)
{
    struct told *told = ctx;

    ck_assert_uint_le(n_done, n_all);
    ck_assert(told->n_times == 0 || n_done >= told->n_done);
    *told = (struct told){stage, n_done, n_all, told->n_times + 1};
}

static struct model *open_demo(void)
{
    struct model *model;
    struct kv_error error;

    ck_assert_int_eq(model_open(&model, ENGINE_DEMO, &error), KV_OK);
    return model;
}

static enum kv_status open_compute(struct compute **out,
    const struct model *model, const char *kernels, bool locks_weights,
    const struct progress *progress, struct kv_error *error)
{
    static unsigned char arena[1];
    const struct compute_config config = {
        .model = model,
        .arena = arena,
        .block_bytes = kv_block_bytes(&model->shape, KV_TYPE_F16, 16),
        .block_tokens = 16,
        .kv_type = KV_TYPE_F16,
        .n_threads = 2,
        .max_batch_tokens = 8,
        .max_slices = 2,
        .kernels = kernels,
        .locks_weights = locks_weights,
        .progress = progress,
    };

    return compute_open(out, &config, error);
}

/* Of this process, as the system sees it. */
static size_t locked_kib(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;

    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL)
        sscanf(line, "VmLck: %zu kB", &kib);
    fclose(file);
    return kib;
}

/* Sanitizers make mlock do nothing. */
static bool locks_are_real(void)
{
    static unsigned char page[1];
    bool are_real;

    if (mlock(page, sizeof page) != 0)
        return true;
    are_real = locked_kib() > 0;
    ck_assert_int_eq(munlock(page, sizeof page), 0);
    if (!are_real)
        fprintf(stderr, "skipped: mlock does nothing here\n");
    return are_real;
}

START_TEST(waiting_for_a_model_reads_all_of_it)
{
    struct model *model = open_demo();
    struct told told = {0};
    const struct progress progress = {on_progress, &told};
    struct kv_error error;

    ck_assert_int_eq(
        residency_prefetch(model, RESIDENCY_AS_TOUCHED, &progress, &error),
        KV_OK);
    ck_assert_int_eq(
        residency_prefetch(model, RESIDENCY_AHEAD, &progress, &error), KV_OK);
    ck_assert_uint_eq(told.n_times, 0);
    ck_assert_int_eq(
        residency_prefetch(model, RESIDENCY_WAIT, &progress, &error), KV_OK);
    ck_assert_str_eq(told.stage, "reading");
    ck_assert_uint_ge(told.n_all, model->mapped_bytes);
    ck_assert_int_eq(
        residency_prefetch(model, RESIDENCY_WAIT, NULL, &error), KV_OK);
    model_close(model);
}
END_TEST

/* Otherwise a step would die of SIGBUS. */
START_TEST(what_a_file_has_lost_is_an_error_when_it_is_waited_for)
{
    char path[] = "residency-XXXXXX";
    const int fd = mkstemp(path);
    struct {
        FILE *from;
        char bytes[65536];
        size_t n;
    } file = {.from = fopen(ENGINE_DEMO, "rb")};
    struct model *model;
    struct kv_error error;

    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_nonnull(file.from);
    while ((file.n = fread(file.bytes, 1, sizeof file.bytes, file.from)) > 0)
        ck_assert_int_eq(write(fd, file.bytes, file.n), (ssize_t)file.n);
    fclose(file.from);
    ck_assert_int_eq(model_open(&model, path, &error), KV_OK);
    ck_assert_int_eq(ftruncate(fd, 4096), 0);
    if (residency_prefetch(model, RESIDENCY_WAIT, NULL, &error) != KV_OK) {
        ck_assert_int_eq(error.status, KV_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "cannot be read into memory"));
    }
    model_close(model);
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(packing_tells_how_far_it_is)
{
    struct model *model = open_demo();
    struct told told = {0};
    const struct progress progress = {on_progress, &told};
    struct compute *compute;
    struct kv_error error;

    ck_assert_int_eq(
        open_compute(&compute, model, "auto", false, &progress, &error), KV_OK);
    if (compute_repacked_bytes(compute) > 0) {
        ck_assert_str_eq(told.stage, "packing weights");
        ck_assert_uint_ge(told.n_times, 2);
        ck_assert_uint_eq(told.n_done, told.n_all);
    }
    compute_close(compute);
    model_close(model);
}
END_TEST

START_TEST(locked_weights_are_what_a_step_reads)
{
    static const char *const kernels[] = {"scalar", "auto"};
    struct model *model;

    if (!locks_are_real())
        return;
    model = open_demo();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        struct compute *compute;
        struct kv_error error = {KV_OK, ""};
        const enum kv_status status =
            open_compute(&compute, model, kernels[i], true, NULL, &error);

        if (status != KV_OK) { /* where little may be locked */
            ck_assert_int_eq(status, KV_NO_MEMORY);
            ck_assert_ptr_nonnull(strstr(error.text, "RLIMIT_MEMLOCK"));
            continue;
        }
        ck_assert_uint_gt(
            compute_locked_bytes(compute), compute_repacked_bytes(compute));
        ck_assert_uint_gt(locked_kib(), 0);
        compute_close(compute);
        ck_assert_uint_eq(locked_kib(), 0);
    }
    model_close(model);
}
END_TEST

START_TEST(a_limit_that_forbids_locking_is_named)
{
    const struct rlimit none = {4096, 4096};
    struct model *model;
    struct compute *compute = NULL;
    struct kv_error error = {KV_OK, ""};

    if (!locks_are_real())
        return;
    model = open_demo();
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    /* The superuser is not held by limits. Check gives each test a process. */
    if (geteuid() == 0)
        ck_assert_int_eq(setuid(65534), 0);
    ck_assert_int_eq(open_compute(&compute, model, "auto", true, NULL, &error),
        KV_NO_MEMORY);
    ck_assert_ptr_null(compute);
    ck_assert_ptr_nonnull(strstr(error.text, "RLIMIT_MEMLOCK allows 4096"));
    ck_assert_uint_eq(locked_kib(), 0);
    model_close(model);
}
END_TEST

START_TEST(ways_to_prefetch_have_names)
{
    enum residency_prefetch how;

    ck_assert(residency_prefetch_parse("off", &how));
    ck_assert_int_eq(how, RESIDENCY_AS_TOUCHED);
    ck_assert(residency_prefetch_parse("ahead", &how));
    ck_assert_int_eq(how, RESIDENCY_AHEAD);
    ck_assert(residency_prefetch_parse("wait", &how));
    ck_assert_int_eq(how, RESIDENCY_WAIT);
    ck_assert(!residency_prefetch_parse("", &how));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        waiting_for_a_model_reads_all_of_it,
        what_a_file_has_lost_is_an_error_when_it_is_waited_for,
        packing_tells_how_far_it_is,
        locked_weights_are_what_a_step_reads,
        a_limit_that_forbids_locking_is_named,
        ways_to_prefetch_have_names,
    };

    return CHECK_RUN("residency", NULL, NULL, tests);
}
