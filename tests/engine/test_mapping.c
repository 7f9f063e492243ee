/* A file that is cut short or written to while it is read; what it does to a
 * model that computes. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/mapping.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/check_main.h"

#define N_BYTES ((size_t)64 << 12)

/* A file of n bytes of 'x' that nobody can name. */
static int make_file(size_t n)
{
    char path[] = "/tmp/kvpool_mapping_XXXXXX";
    char *bytes = malloc(n);
    const int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_ptr_nonnull(bytes);
    memset(bytes, 'x', n);
    ck_assert_int_eq(write(fd, bytes, n), (ssize_t)n);
    free(bytes);
    return fd;
}

/* What is written now is written later than the file, on any clock. */
static void age(int fd)
{
    const struct timespec hour_ago[2] = {
        {.tv_nsec = UTIME_OMIT}, {.tv_sec = time(NULL) - 3600}};

    ck_assert_int_eq(futimens(fd, hour_ago), 0);
}

static unsigned char look(const struct mapping *mapping, size_t at)
{
    return *(const volatile unsigned char *)(mapping->data + at);
}

START_TEST(a_mapping_is_the_file_and_outlives_its_descriptor)
{
    struct mapping mapping;
    const int fd = make_file(N_BYTES + 1);

    ck_assert_int_eq(mapping_init(&mapping, fd, N_BYTES + 1), 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_uint_eq(mapping.n_bytes, N_BYTES + 1);
    for (size_t i = 0; i <= N_BYTES; i += 512)
        ck_assert_uint_eq(look(&mapping, i), 'x');
    ck_assert_int_eq(mapping_state(&mapping), MAPPING_SOUND);
    mapping_fini(&mapping);
    ck_assert_int_eq(mapping_init(&mapping, -1, N_BYTES), EBADF);
}
END_TEST

START_TEST(a_file_cut_short_becomes_zeros_and_others_stay)
{
    struct mapping cut, other;
    const int fd = make_file(N_BYTES + 1), other_fd = make_file(N_BYTES);

    ck_assert_int_eq(mapping_init(&cut, fd, N_BYTES + 1), 0);
    ck_assert_int_eq(mapping_init(&other, other_fd, N_BYTES), 0);
    ck_assert_int_eq(ftruncate(fd, 4096), 0);
    ck_assert_uint_eq(look(&cut, 100), 'x'); /* it has that yet */
    ck_assert_int_eq(mapping_state(&cut), MAPPING_SOUND);
    ck_assert_uint_eq(look(&cut, N_BYTES), 0); /* the last page */
    ck_assert_int_eq(mapping_state(&cut), MAPPING_CUT);
    for (size_t i = 0; i <= N_BYTES; i += 512)
        ck_assert_uint_eq(look(&cut, i), 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)N_BYTES + 1), 0);
    ck_assert_int_eq(mapping_state(&cut), MAPPING_CUT); /* for good */
    ck_assert_int_eq(mapping_state(&other), MAPPING_SOUND);
    ck_assert_uint_eq(look(&other, N_BYTES - 1), 'x');
    mapping_fini(&cut);
    mapping_fini(&other);
    close(fd);
    close(other_fd);
}
END_TEST

/* A byte is written, in place, which the mapping shows. */
START_TEST(a_file_written_to_is_found_by_who_looks)
{
    struct mapping written, other;
    const int fd = make_file(N_BYTES), other_fd = make_file(N_BYTES);
    age(fd);
    ck_assert_int_eq(mapping_init(&written, fd, N_BYTES), 0);
    ck_assert_int_eq(mapping_init(&other, other_fd, N_BYTES), 0);
    mapping_look(&written);
    ck_assert_int_eq(mapping_state(&written), MAPPING_SOUND);
    ck_assert_int_eq(pwrite(fd, "y", 1, 100), 1);
    ck_assert_uint_eq(look(&written, 100), 'y');
    mapping_look(&written);
    mapping_look(&other);
    ck_assert_int_eq(mapping_state(&written), MAPPING_WRITTEN);
    ck_assert_int_eq(mapping_state(&other), MAPPING_SOUND);
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_uint_eq(look(&written, 100), 0); /* nor kills that anybody */
    mapping_look(&written);
    ck_assert_int_eq(mapping_state(&written), MAPPING_WRITTEN); /* the first */
    mapping_fini(&written);
    mapping_fini(&other);
    close(fd);
    close(other_fd);
}
END_TEST

/* Its mode, its names, its owners are not what is in it. */
START_TEST(a_file_that_changes_its_name_or_mode_stays_sound)
{
    char path[] = "/tmp/kvpool_mapping_XXXXXX", moved[64];
    struct mapping mapping;
    const int fd = mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, N_BYTES), 0);
    ck_assert_int_eq(mapping_init(&mapping, fd, N_BYTES), 0);
    snprintf(moved, sizeof moved, "%s.old", path);
    ck_assert_int_eq(fchmod(fd, 0400), 0);
    ck_assert_int_eq(rename(path, moved), 0);
    ck_assert_int_eq(unlink(moved), 0);
    mapping_look(&mapping);
    ck_assert_int_eq(mapping_state(&mapping), MAPPING_SOUND);
    mapping_fini(&mapping);
    close(fd);
}
END_TEST

START_TEST(a_place_in_the_table_is_used_again_and_one_too_many_is_refused)
{
    static struct mapping mappings[MAPPING_MAX];
    struct mapping extra;
    const int fd = make_file(N_BYTES);

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < MAPPING_MAX; i++)
            ck_assert_int_eq(mapping_init(&mappings[i], fd, N_BYTES), 0);
        ck_assert_int_eq(mapping_init(&extra, fd, N_BYTES), EMFILE);
        for (size_t i = 0; i < MAPPING_MAX; i++) {
            ck_assert_int_eq(mapping_state(&mappings[i]), MAPPING_SOUND);
            mapping_fini(&mappings[i]);
        }
    }
    close(fd);
}
END_TEST

static void exit_well(int number)
{
    _exit(number == SIGBUS ? 42 : 1);
}

/* A child with a mapping of ours touches one that is none. */
static int status_of_other_fault(void (*handler)(int))
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        struct mapping mapping;
        const int fd = make_file(N_BYTES);
        volatile char *data;

        signal(SIGBUS, handler);
        if (mapping_init(&mapping, fd, N_BYTES) != 0)
            _exit(2);
        data = mmap(NULL, N_BYTES, PROT_READ, MAP_PRIVATE, fd, 0);
        if (ftruncate(fd, 0) != 0 || data == MAP_FAILED)
            _exit(3);
        _exit(data[0] == 'x' ? 4 : 5);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

START_TEST(faults_of_others_are_left_to_others)
{
    int status = status_of_other_fault(SIG_DFL);

    ck_assert(WIFSIGNALED(status));
    ck_assert_int_eq(WTERMSIG(status), SIGBUS);
    status = status_of_other_fault(exit_well);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 42);
}
END_TEST

static void copy_demo(char path[])
{
    char buffer[65536];
    FILE *from = fopen(ENGINE_DEMO, "rb");
    const int fd = mkstemp(path);
    size_t n;

    ck_assert_ptr_nonnull(from);
    ck_assert_int_ge(fd, 0);
    while ((n = fread(buffer, 1, sizeof buffer, from)) > 0)
        ck_assert_int_eq(write(fd, buffer, n), (ssize_t)n);
    fclose(from);
    age(fd);
    close(fd);
}

static void cut_short(const char *path)
{
    ck_assert_int_eq(truncate(path, 4096), 0);
}

static void write_to(const char *path)
{
    FILE *file = fopen(path, "r+b");

    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fseek(file, 300000, SEEK_SET), 0);
    ck_assert_int_ne(fputc('x', file), EOF);
    ck_assert_int_eq(fclose(file), 0);
}

static const struct {
    void (*spoil)(const char *path);
    const char *said;
} ways[] = {{cut_short, "cut short"}, {write_to, "written to"}};

/* The threads of a team as well: they block signals, but not this one. */
START_TEST(a_model_spoilt_computes_on_and_says_so)
{
    static const char *const sets[] = {"scalar", "auto"};
    char path[] = "/tmp/kvpool_mapping_XXXXXX";
    uint32_t tokens[48];
    struct kv_error error;
    struct engine engine;
    float *logits;

    copy_demo(path);
    engine_open(&engine,
        &(struct engine_config){path, sets[_i % 2], KV_TYPE_F16, 3, 16});
    logits = calloc(engine.n_vocab, sizeof *logits);
    for (uint32_t i = 0; i < 48; i++)
        tokens[i] = (i * 131 + 7) % engine.n_vocab;
    engine_feed(&engine, 0, tokens, 16, 0, 16, logits);
    ck_assert_int_eq(model_check_file(engine.model, &error), KV_OK);
    ways[_i / 2].spoil(path);
    engine_feed(&engine, 0, tokens + 16, 32, 16, 16, logits);
    ck_assert_int_eq(model_check_file(engine.model, &error), KV_IO);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_ptr_nonnull(strstr(error.text, ways[_i / 2].said));
    free(logits);
    engine_close(&engine);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_model_spoilt_before_it_is_packed_is_refused)
{
    char path[] = "/tmp/kvpool_mapping_XXXXXX";
    struct compute_config config = {
        .block_tokens = 16,
        .kv_type = KV_TYPE_F16,
        .n_threads = 2,
        .max_batch_tokens = 16,
        .max_slices = 1,
        .kernels = "auto",
    };
    unsigned char arena[64];
    struct compute *compute = NULL;
    struct kv_error error;
    struct model *model;

    copy_demo(path);
    ck_assert_int_eq(model_open(&model, path, &error), KV_OK);
    ways[_i].spoil(path);
    config.model = model;
    config.arena = arena;
    config.block_bytes = kv_block_bytes(&model->shape, KV_TYPE_F16, 16);
    ck_assert_int_eq(compute_open(&compute, &config, &error), KV_IO);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_ptr_nonnull(strstr(error.text, ways[_i].said));
    model_close(model);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("mapping");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_mapping_is_the_file_and_outlives_its_descriptor);
    tcase_add_test(tcase, a_file_cut_short_becomes_zeros_and_others_stay);
    tcase_add_test(
        tcase, a_place_in_the_table_is_used_again_and_one_too_many_is_refused);
    tcase_add_test(tcase, faults_of_others_are_left_to_others);
    tcase_add_test(tcase, a_file_written_to_is_found_by_who_looks);
    tcase_add_test(tcase, a_file_that_changes_its_name_or_mode_stays_sound);
    tcase_add_loop_test(tcase, a_model_spoilt_computes_on_and_says_so, 0, 4);
    tcase_add_loop_test(
        tcase, a_model_spoilt_before_it_is_packed_is_refused, 0, 2);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
