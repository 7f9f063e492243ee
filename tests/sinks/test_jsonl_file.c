/* Files of JSON lines, without the sink: what is in them after writes, crashes
 * and failures. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "base/heap.h"
#include "receipts/json.h"
#include "sinks/jsonl_file.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define TEXT_BYTES ((size_t)1 << 22)

static struct ledger *ledger;
static struct feed_cursor cursor;
static struct jsonl_names names;
static struct jsonl_file file;
static struct kv_error error;
static char dir[] = "/tmp/kvpool-jsonl-XXXXXX";
static const uint8_t one_pool[16] = {0xab, 0xcd, 0x01};

static int64_t wall_ns(void)
{
    return 1000;
}

static void open_ledger(const uint8_t pool_id[16])
{
    struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 1, .wall_ns = wall_ns};

    memcpy(config.pool_id, pool_id, 16);
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    cursor = (struct feed_cursor){0};
}

static void open_file(uint64_t rotate_bytes, int64_t rotate_ns)
{
    jsonl_file_init(&file, &names, rotate_bytes, rotate_ns);
}

static void reopen_file(void)
{
    uint64_t rotate_bytes = file.rotate_bytes;
    int64_t rotate_ns = file.rotate_ns;

    jsonl_file_fini(&file);
    open_file(rotate_bytes, rotate_ns);
}

static void set_up(void)
{
    char path[64];

    faulty_heap_install();
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    ck_assert_int_eq(jsonl_names_parse(&names, path, &error), KV_OK);
    open_ledger(one_pool);
    open_file(0, 0);
}

static void tear_down(void)
{
    char command[80];

    jsonl_file_fini(&file);
    ledger_close(ledger);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void issue(int n)
{
    for (int i = 0; i < n; i++)
        ledger_issue_drain(ledger, "a test", 1, 1);
}

/* Everything behind the cursor, in runs of at most this many. */
static enum kv_status write_runs(uint32_t max_receipts, int64_t now_ns)
{
    struct feed_run run;

    while (feed_next(ledger, &cursor, max_receipts, 1 << 20, &run) == KV_OK) {
        enum kv_status status =
            jsonl_file_write(&file, &run, 1, now_ns, &error);

        feed_run_release(run.chunk);
        if (status != KV_OK) {
            cursor.sequence = run.first_sequence - 1;
            return status;
        }
    }
    return KV_OK;
}

static void write_all(uint32_t max_receipts)
{
    enum kv_status status = write_runs(max_receipts, 0);

    ck_assert_msg(status == KV_OK, "%s", error.text);
}

static size_t read_file(const char *name, char *text)
{
    char path[400];
    FILE *from;
    size_t n;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    from = fopen(path, "rb");
    ck_assert_msg(from != NULL, "no %s", path);
    n = fread(text, 1, TEXT_BYTES - 1, from);
    fclose(from);
    text[n] = '\0';
    return n;
}

/* What the ledger says that the lines of [first, last] are. */
static char *expected(uint64_t first, uint64_t last)
{
    struct feed_cursor at = {.sequence = first - 1};
    char *text = calloc(1, TEXT_BYTES), *end = text;
    struct feed_run run;

    while (at.sequence < last &&
           feed_next(ledger, &at, 1, 1 << 20, &run) == KV_OK) {
        const unsigned char *entry = run.bytes, *bytes;
        Kvpool__V1__Receipt *receipt;
        size_t n_bytes;
        json_t *json;
        char *line;

        feed_run_entry(&run, &entry, &bytes, &n_bytes);
        receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
        json = receipt_to_json(receipt);
        line = json_dumps(json, JSON_COMPACT);
        end = stpcpy(stpcpy(end, line), "\n");
        free(line);
        json_decref(json);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
        feed_run_release(run.chunk);
    }
    return text;
}

static void has_exactly(const char *name, uint64_t first, uint64_t last)
{
    char *text = calloc(1, TEXT_BYTES), *wanted = expected(first, last);

    read_file(name, text);
    ck_assert_msg(strcmp(text, wanted) == 0, "%s has:\n%.2000s", name, text);
    free(wanted);
    free(text);
}

static void append_bytes(const char *bytes)
{
    char path[400];
    FILE *to;

    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    to = fopen(path, "ab");
    ck_assert_ptr_nonnull(to);
    fputs(bytes, to);
    fclose(to);
}

static int n_entries(const char *suffix)
{
    DIR *walk = opendir(dir);
    struct dirent *entry;
    int n = 0;

    while ((entry = readdir(walk)) != NULL) {
        size_t length = strlen(entry->d_name), tail = strlen(suffix);

        n += length >= tail &&
             strcmp(entry->d_name + length - tail, suffix) == 0;
    }
    closedir(walk);
    return n;
}

static void tidy(bool compress, uint64_t keep_files)
{
    atomic_bool stop = false;

    ck_assert_int_eq(
        jsonl_archive_tidy(&names, compress, keep_files, &stop, &error), KV_OK);
}

START_TEST(a_line_is_a_receipt_as_json)
{
    issue(700);
    write_all(100);
    has_exactly("r.jsonl", 1, 700);
}
END_TEST

START_TEST(each_sequence_stands_once_after_restart)
{
    issue(10);
    write_all(3);
    for (uint64_t from = 0; from <= 10; from++) {
        reopen_file();
        cursor.sequence = from; /* what was acknowledged may be older */
        write_all(4);
        has_exactly("r.jsonl", 1, 10);
    }
    issue(5);
    cursor.sequence = 0;
    write_all(100);
    has_exactly("r.jsonl", 1, 15);
}
END_TEST

START_TEST(a_torn_last_line_is_cut)
{
    char path[400], *text = calloc(1, TEXT_BYTES);
    size_t n, n_two;

    issue(3);
    write_all(10);
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    n = read_file("r.jsonl", text);
    n_two = (size_t)((char *)memrchr(text, '\n', n - 1) - text) + 1;
    for (size_t at = n - 1; at >= n_two; at--) {
        jsonl_file_fini(&file);
        ck_assert_int_eq(truncate(path, (off_t)at), 0);
        open_file(0, 0);
        cursor.sequence = 2;
        write_all(10);
        has_exactly("r.jsonl", 1, 3);
    }
    jsonl_file_fini(&file);
    open_file(0, 0);
    append_bytes("{\"event\":");
    cursor.sequence = 3;
    issue(1);
    write_all(10);
    has_exactly("r.jsonl", 1, 4);
    ck_assert_int_eq(truncate(path, 5), 0); /* not even one line */
    reopen_file();
    cursor.sequence = 0;
    write_all(10);
    has_exactly("r.jsonl", 1, 4);
    free(text);
}
END_TEST

/* As a page that a power cut kept from the disk: zeros from within line `from`
 * to within line `to`, both of the file as it is now. */
static void lose_page(int from, int to)
{
    char *text = calloc(1, TEXT_BYTES), *at = text, path[400];
    size_t n = read_file("r.jsonl", text);
    FILE *out;

    for (int line = 1; line <= to; line++) {
        char *newline = strchr(at, '\n');

        if (line >= from)
            memset(at + 5, 0, (size_t)(newline - at) - 5 + (line < to));
        at = newline + 1;
    }
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    out = fopen(path, "wb");
    ck_assert_uint_eq(fwrite(text, 1, n, out), n);
    fclose(out);
    free(text);
}

START_TEST(a_hole_in_what_was_not_acknowledged_is_written_again)
{
    static const int holes[][2] = {{15, 15}, {11, 14}, {11, 20}, {19, 20}};

    issue(20);
    for (size_t i = 0; i < sizeof holes / sizeof *holes; i++) {
        cursor.sequence = 0;
        write_all(100);
        lose_page(holes[i][0], holes[i][1]);
        reopen_file();
        cursor.sequence = 10;
        write_all(4);
        has_exactly("r.jsonl", 1, 20);
        reopen_file();
    }
}
END_TEST

START_TEST(a_hole_in_the_first_lines_behind_closed_files_is_written_again)
{
    jsonl_file_fini(&file);
    open_file(1, 0);
    issue(10);
    write_all(10);
    issue(10);
    write_all(10); /* a file of its own */
    lose_page(1, 3);
    reopen_file();
    cursor.sequence = 10;
    write_all(10);
    has_exactly("r.jsonl", 11, 20);
}
END_TEST

static void remove_file(void)
{
    char path[400];

    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    ck_assert_int_eq(unlink(path), 0);
}

/* It cannot be had again here: another file, and the ledger, are the way. */
START_TEST(a_hole_in_what_was_acknowledged_is_named_and_left_alone)
{
    char *before = calloc(1, TEXT_BYTES), *after = calloc(1, TEXT_BYTES);
    static const int first[] = {15, 1};

    for (size_t i = 0; i < 2; i++) {
        issue(20);
        write_all(100);
        lose_page(first[i], 16);
        read_file("r.jsonl", before);
        reopen_file();
        cursor.sequence = 18;
        ck_assert_int_eq(write_runs(10, 0), KV_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "is no receipt"));
        read_file("r.jsonl", after);
        ck_assert_str_eq(before, after);
        reopen_file();
        remove_file();
        cursor.sequence = 0;
    }
    free(before);
    free(after);
}
END_TEST

/* Closed files beside it do not make it ours. */
START_TEST(somebody_elses_file_is_never_cut)
{
    static const char *const others[] = {
        "hello\n", "{\"level\":\"info\"}\n", "{}\n{}\n", "\n"};
    char *text = calloc(1, TEXT_BYTES);

    jsonl_file_fini(&file);
    open_file(1, 0);
    issue(10);
    write_all(10);
    issue(10);
    write_all(10);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        reopen_file();
        remove_file();
        append_bytes(others[i]);
        cursor.sequence = 10;
        ck_assert_int_eq(write_runs(10, 0), KV_INVALID);
        ck_assert_uint_eq(read_file("r.jsonl", text), strlen(others[i]));
        ck_assert_str_eq(text, others[i]);
    }
    free(text);
}
END_TEST

START_TEST(what_is_no_file_is_refused_as_such)
{
    char path[400];

    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    issue(1);
    ck_assert_int_eq(write_runs(10, 0), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "r.jsonl is no file"));
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(write_runs(10, 0), KV_INVALID);
    ck_assert_int_eq(unlink(path), 0);
    write_all(10);
    has_exactly("r.jsonl", 1, 1);
}
END_TEST

START_TEST(a_file_of_other_things_is_left_alone)
{
    static const char *const texts[] = {
        "# notes\nto be kept\n", "# notes\nto be kept", "no line at all"};
    char *text = calloc(1, TEXT_BYTES), path[400];

    issue(1);
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        append_bytes(texts[i]);
        ck_assert_int_eq(write_runs(10, 0), KV_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "is no receipt"));
        read_file("r.jsonl", text);
        ck_assert_str_eq(text, texts[i]);
        ck_assert_int_eq(unlink(path), 0);
    }
    free(text);
}
END_TEST

START_TEST(only_one_writes_a_file)
{
    struct jsonl_file other;
    struct feed_cursor at = {0};
    struct feed_run run;

    issue(2);
    write_all(10);
    jsonl_file_init(&other, &names, 0, 0);
    ck_assert_int_eq(feed_next(ledger, &at, 10, 1000000, &run), KV_OK);
    ck_assert_int_eq(jsonl_file_write(&other, &run, 1, 0, &error), KV_BUSY);
    jsonl_file_fini(&file);
    ck_assert_int_eq(jsonl_file_write(&other, &run, 1, 0, &error), KV_OK);
    feed_run_release(run.chunk);
    jsonl_file_fini(&other);
    has_exactly("r.jsonl", 1, 2);
    open_file(0, 0);
}
END_TEST

START_TEST(a_moved_or_deleted_file_gets_a_successor)
{
    char path[400], moved[400];

    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    snprintf(moved, sizeof moved, "%s/moved", dir);
    issue(2);
    write_all(10);
    ck_assert_int_eq(rename(path, moved), 0);
    issue(2);
    write_all(10);
    has_exactly("moved", 1, 2);
    has_exactly("r.jsonl", 3, 4);
    ck_assert_int_eq(unlink(path), 0);
    issue(1);
    write_all(10);
    has_exactly("r.jsonl", 5, 5);
}
END_TEST

/* Writes stop in the middle of a line; a full disk does the same. */
START_TEST(what_a_full_disk_cut_is_written_whole_later)
{
    struct rlimit limit, before;

    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    issue(100);
    for (rlim_t bytes = 100; bytes < 20000; bytes += 777) {
        limit = (struct rlimit){bytes, before.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(write_runs(7, 0), KV_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "File too large"));
    }
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    write_all(7);
    has_exactly("r.jsonl", 1, 100);
}
END_TEST

START_TEST(a_lost_directory_is_an_error_until_it_is_back)
{
    char moved[64];

    issue(2);
    write_all(10);
    snprintf(moved, sizeof moved, "%s.moved", dir);
    ck_assert_int_eq(rename(dir, moved), 0);
    issue(2);
    ck_assert_int_eq(write_runs(10, 0), KV_IO);
    ck_assert_int_eq(write_runs(10, 0), KV_IO);
    ck_assert_int_eq(rename(moved, dir), 0);
    write_all(10);
    has_exactly("r.jsonl", 1, 4);
}
END_TEST

/* The lines of all closed files in order, decompressed by the library. */
static void closed_has(const char *name, uint64_t first, uint64_t last)
{
    char *packed = calloc(1, TEXT_BYTES), *text = calloc(1, TEXT_BYTES);
    char *wanted = expected(first, last), compressed[300];
    size_t n;

    snprintf(compressed, sizeof compressed, "%s.zst", name);
    n = read_file(compressed, packed);
    n = ZSTD_decompress(text, TEXT_BYTES - 1, packed, n);
    ck_assert_msg(!ZSTD_isError(n), "%s", ZSTD_getErrorName(n));
    text[n] = '\0';
    ck_assert_msg(strcmp(text, wanted) == 0, "%s has:\n%.2000s", name, text);
    free(wanted);
    free(text);
    free(packed);
}

START_TEST(closed_files_decompress_to_the_same_lines)
{
    open_file(1, 0); /* a file for each write */
    for (int i = 0; i < 5; i++) {
        issue(400);
        write_all(1000000);
    }
    ck_assert_int_ge(n_entries(".jsonl"), 5);
    tidy(true, 0);
    ck_assert_int_eq(n_entries(".jsonl"), 1);
    ck_assert_int_eq(n_entries(".tmp"), 0);
    for (uint64_t first = 1; first < file.first_sequence;) {
        char name[300], pool[9] = "abcd0100";
        uint64_t last = first;

        for (;; last++) {
            char path[400];

            snprintf(name, sizeof name, "r-%020d-%020d-%s.jsonl", (int)first,
                (int)last, pool);
            snprintf(path, sizeof path, "%s/%s.zst", dir, name);
            if (access(path, F_OK) == 0)
                break;
            ck_assert_uint_lt(last, 2000);
        }
        closed_has(name, first, last);
        first = last + 1;
    }
    has_exactly("r.jsonl", file.first_sequence, 2000);
}
END_TEST

START_TEST(an_old_file_is_closed_before_the_next_line)
{
    open_file(0, 500);
    issue(2); /* at 1000 */
    ck_assert_int_eq(write_runs(10, 1499), KV_OK);
    issue(2);
    ck_assert_int_eq(write_runs(10, 1499), KV_OK);
    ck_assert(!file.rotated);
    issue(1);
    ck_assert_int_eq(write_runs(10, 1500), KV_OK);
    ck_assert(file.rotated);
    has_exactly(
        "r-00000000000000000001-00000000000000000004-abcd0100.jsonl", 1, 4);
    has_exactly("r.jsonl", 5, 5);
}
END_TEST

/* After a crash between closing and the first line of the next file. */
START_TEST(names_of_closed_files_say_what_is_there)
{
    char path[400];

    open_file(1, 0);
    issue(4);
    write_all(10);
    issue(1);
    write_all(10);
    jsonl_file_fini(&file);
    snprintf(path, sizeof path, "%s/r.jsonl", dir);
    ck_assert_int_eq(truncate(path, 0), 0);
    open_file(1, 0);
    tidy(true, 0);
    cursor.sequence = 0;
    write_all(10);
    has_exactly("r.jsonl", 5, 5);
}
END_TEST

START_TEST(another_ledger_has_a_file_of_its_own)
{
    const uint8_t other_pool[16] = {0x77};

    issue(3);
    write_all(10);
    reopen_file();
    ledger_close(ledger);
    open_ledger(other_pool);
    issue(2);
    write_all(10);
    has_exactly("r.jsonl", 1, 2);
    ck_assert_int_eq(
        n_entries("r-00000000000000000001-00000000000000000003-abcd0100.jsonl"),
        1);
}
END_TEST

START_TEST(the_oldest_closed_files_go_and_nothing_else)
{
    char path[400];

    open_file(1, 0);
    for (int i = 0; i < 6; i++) {
        issue(1);
        write_all(10);
    }
    snprintf(path, sizeof path, "%s/r-2020.jsonl", dir);
    ck_assert_int_eq(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    snprintf(path, sizeof path, "%s/r-old.jsonl.zst", dir);
    ck_assert_int_eq(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    tidy(true, 2);
    ck_assert_int_eq(n_entries(".zst"), 3);
    ck_assert_int_eq(n_entries("-00000000000000000004-abcd0100.jsonl.zst"), 1);
    ck_assert_int_eq(n_entries("-00000000000000000005-abcd0100.jsonl.zst"), 1);
    ck_assert_int_eq(n_entries("r-2020.jsonl"), 1);
    ck_assert_int_eq(n_entries("r.jsonl"), 1);
}
END_TEST

START_TEST(an_unfinished_compression_is_done_again)
{
    atomic_bool stop = true;
    char path[400];

    open_file(1, 0);
    issue(2);
    write_all(1);
    tidy(false, 0);
    ck_assert_int_eq(jsonl_archive_tidy(&names, true, 0, &stop, &error), KV_OK);
    ck_assert_int_eq(n_entries(".jsonl"), 2); /* stopped: nothing was lost */
    ck_assert_int_eq(n_entries(".tmp"), 0);
    snprintf(path, sizeof path,
        "%s/r-00000000000000000001-00000000000000000001-abcd0100.jsonl.zst.tmp",
        dir);
    ck_assert_int_eq(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    tidy(true, 0);
    ck_assert_int_eq(n_entries(".tmp"), 0);
    closed_has(
        "r-00000000000000000001-00000000000000000001-abcd0100.jsonl", 1, 1);
}
END_TEST

START_TEST(nothing_is_lost_or_doubled_when_memory_runs_out)
{
    issue(5);
    for (int nth = 0;; nth++) {
        enum kv_status status;

        faulty_heap_fail_at(nth);
        status = write_runs(2, 0);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_int_lt(nth, 100);
    }
    has_exactly("r.jsonl", 1, 5);
    jsonl_file_fini(&file);
    open_file(1, 0);
    issue(2);
    write_all(1);
    for (int nth = 0;; nth++) {
        atomic_bool stop = false;
        enum kv_status status;

        faulty_heap_fail_at(nth);
        status = jsonl_archive_tidy(&names, true, 1, &stop, &error);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(status, KV_NO_MEMORY);
        ck_assert_int_eq(n_entries(".tmp"), 0);
    }
    ck_assert_int_eq(n_entries(".zst"), 1);
}
END_TEST

START_TEST(what_is_no_name_of_a_file_is_refused)
{
    static char too_long[5000];
    const char *const bad[] = {"", "/", "x/", "/x/..", ".", too_long};
    struct jsonl_names out;

    memset(too_long, 'x', sizeof too_long - 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(jsonl_names_parse(&out, bad[i], &error), KV_INVALID);
    ck_assert_int_eq(jsonl_names_parse(&out, "x", &error), KV_OK);
    ck_assert_str_eq(out.dir, ".");
    ck_assert_int_eq(jsonl_names_parse(&out, "/x.jsonl", &error), KV_OK);
    ck_assert_str_eq(out.dir, "/");
    ck_assert_uint_eq(out.n_stem, 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_line_is_a_receipt_as_json,
        each_sequence_stands_once_after_restart,
        a_torn_last_line_is_cut,
        a_hole_in_what_was_not_acknowledged_is_written_again,
        a_hole_in_the_first_lines_behind_closed_files_is_written_again,
        a_hole_in_what_was_acknowledged_is_named_and_left_alone,
        somebody_elses_file_is_never_cut,
        what_is_no_file_is_refused_as_such,
        a_file_of_other_things_is_left_alone,
        only_one_writes_a_file,
        a_moved_or_deleted_file_gets_a_successor,
        what_a_full_disk_cut_is_written_whole_later,
        a_lost_directory_is_an_error_until_it_is_back,
        closed_files_decompress_to_the_same_lines,
        an_old_file_is_closed_before_the_next_line,
        names_of_closed_files_say_what_is_there,
        another_ledger_has_a_file_of_its_own,
        the_oldest_closed_files_go_and_nothing_else,
        an_unfinished_compression_is_done_again,
        nothing_is_lost_or_doubled_when_memory_runs_out,
        what_is_no_name_of_a_file_is_refused,
    };

    return CHECK_RUN("sinks.jsonl_file", set_up, tear_down, tests);
}
