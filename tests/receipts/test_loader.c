/* The loader over a log that is made up: chunks of ten, a gate that reads wait
 * at, and a count of them. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/heap.h"
#include "receipts/loader.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define CHUNK 10

static struct loader *loader;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open;      /* the gate */
    int n_reads;    /* begun */
    int n_wakes;    /* not seen yet */
    int n_failures; /* to come */
} disk = {
    .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static enum kv_status load(void *ctx, uint64_t sequence,
    struct ring_chunk **out, struct kv_error *error)
{
    struct ring_chunk *chunk;
    bool fails;

    (void)ctx;
    pthread_mutex_lock(&disk.mutex);
    disk.n_reads++;
    pthread_cond_broadcast(&disk.changed);
    while (!disk.open)
        pthread_cond_wait(&disk.changed, &disk.mutex);
    fails = disk.n_failures > 0 && disk.n_failures-- > 0;
    pthread_mutex_unlock(&disk.mutex);
    if (fails)
        return kv_error_set(error, KV_IO, "made up");
    chunk = kv_calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return KV_NO_MEMORY;
    atomic_init(&chunk->refs, 1);
    chunk->first_sequence = (sequence - 1) / CHUNK * CHUNK + 1;
    chunk->n_entries = CHUNK;
    *out = chunk;
    return KV_OK;
}

static void wake(void *ctx)
{
    (void)ctx;
    pthread_mutex_lock(&disk.mutex);
    disk.n_wakes++;
    pthread_cond_broadcast(&disk.changed);
    pthread_mutex_unlock(&disk.mutex);
}

static void set_gate(bool open)
{
    pthread_mutex_lock(&disk.mutex);
    disk.open = open;
    pthread_cond_broadcast(&disk.changed);
    pthread_mutex_unlock(&disk.mutex);
}

static void wait_for_read(int n_reads)
{
    pthread_mutex_lock(&disk.mutex);
    while (disk.n_reads < n_reads)
        pthread_cond_wait(&disk.changed, &disk.mutex);
    pthread_mutex_unlock(&disk.mutex);
}

static int n_reads(void)
{
    int n;

    pthread_mutex_lock(&disk.mutex);
    n = disk.n_reads;
    pthread_mutex_unlock(&disk.mutex);
    return n;
}

/* Until the thread has said that something is there, which is collected. */
static void collect(void)
{
    pthread_mutex_lock(&disk.mutex);
    while (disk.n_wakes == 0)
        pthread_cond_wait(&disk.changed, &disk.mutex);
    disk.n_wakes--;
    pthread_mutex_unlock(&disk.mutex);
    loader_collect(loader);
}

static void set_up(void)
{
    const struct loader_config config = {.load = load, .wake = wake};

    faulty_heap_install();
    disk.open = true;
    disk.n_reads = disk.n_wakes = disk.n_failures = 0;
    ck_assert_int_eq(loader_open(&loader, &config, NULL), KV_OK);
}

static void tear_down(void)
{
    set_gate(true);
    loader_close(loader);
    loader = NULL;
}

/* ---- readers */

struct reader {
    struct feed_cursor cursor; /* first */
    int n_ready;
    struct reader *leaves; /* who is to leave when this one is told */
};

static void on_ready(struct feed_cursor *cursor)
{
    struct reader *reader = (struct reader *)(void *)cursor;

    reader->n_ready++;
    if (reader->leaves != NULL)
        loader_leave(loader, &reader->leaves->cursor);
}

static struct reader new_reader(void)
{
    return (struct reader){.cursor.on_ready = on_ready};
}

static enum kv_status find(struct reader *reader, uint64_t sequence)
{
    struct ring_chunk *chunk = NULL;
    enum kv_status status =
        loader_find(loader, &reader->cursor, sequence, &chunk);

    if (status == KV_OK) {
        ck_assert_uint_le(chunk->first_sequence, sequence);
        ck_assert_uint_gt(chunk->first_sequence + CHUNK, sequence);
    }
    return status;
}

START_TEST(a_cursor_is_told_once_its_chunk_is_there)
{
    struct reader reader = new_reader();

    ck_assert_int_eq(find(&reader, 25), KV_BUSY);
    ck_assert_int_eq(find(&reader, 25), KV_BUSY);
    collect();
    ck_assert_int_eq(reader.n_ready, 1);
    for (uint64_t sequence = 21; sequence <= 30; sequence++)
        ck_assert_int_eq(find(&reader, sequence), KV_OK);
    ck_assert_int_eq(n_reads(), 1);
    ck_assert_int_eq(find(&reader, 31), KV_BUSY);
    collect();
    ck_assert_int_eq(find(&reader, 31), KV_OK);
    ck_assert_int_eq(reader.n_ready, 2);
    loader_leave(loader, &reader.cursor);
}
END_TEST

#define N_READERS 100

START_TEST(readers_that_go_the_same_way_read_the_disk_once)
{
    static struct reader readers[N_READERS];
    int n_chunks = 5;

    for (int i = 0; i < N_READERS; i++)
        readers[i] = new_reader();
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        uint64_t first = (uint64_t)chunk * CHUNK + 1;

        for (int i = 0; i < N_READERS; i++)
            ck_assert_int_eq(find(&readers[i], first), KV_BUSY);
        collect();
        for (int i = 0; i < N_READERS; i++)
            ck_assert_int_eq(find(&readers[i], first + CHUNK - 1), KV_OK);
    }
    ck_assert_int_eq(n_reads(), n_chunks);
    for (int i = 0; i < N_READERS; i++) {
        ck_assert_int_eq(readers[i].n_ready, n_chunks);
        loader_leave(loader, &readers[i].cursor);
    }
}
END_TEST

START_TEST(one_that_comes_later_finds_what_others_have_read)
{
    struct reader first = new_reader(), second = new_reader();
    int n_chunks = LOADER_IDLE;

    for (int chunk = 0; chunk < n_chunks; chunk++) {
        ck_assert_int_eq(find(&first, (uint64_t)chunk * CHUNK + 1), KV_BUSY);
        collect();
        ck_assert_int_eq(find(&first, (uint64_t)chunk * CHUNK + 1), KV_OK);
    }
    loader_leave(loader, &first.cursor);
    for (int chunk = 0; chunk < n_chunks; chunk++)
        ck_assert_int_eq(find(&second, (uint64_t)chunk * CHUNK + 5), KV_OK);
    ck_assert_int_eq(second.n_ready, 0);
    ck_assert_int_eq(n_reads(), n_chunks);
    loader_leave(loader, &second.cursor);
}
END_TEST

START_TEST(no_more_than_a_few_chunks_stay_that_nobody_has)
{
    struct reader reader = new_reader();
    int live = faulty_heap_live();

    for (uint64_t chunk = 0; chunk < 50; chunk++) {
        ck_assert_int_eq(find(&reader, chunk * CHUNK + 1), KV_BUSY);
        collect();
        ck_assert_int_eq(find(&reader, chunk * CHUNK + 1), KV_OK);
    }
    loader_leave(loader, &reader.cursor);
    ck_assert_int_eq(faulty_heap_live() - live, 2 * LOADER_IDLE);
    ck_assert_int_eq(find(&reader, 1), KV_BUSY); /* is gone */
    collect();
    loader_leave(loader, &reader.cursor);
}
END_TEST

START_TEST(leaving_while_a_load_runs_is_safe)
{
    struct reader a = new_reader(), b = new_reader(), queued = new_reader();

    set_gate(false);
    ck_assert_int_eq(find(&a, 1), KV_BUSY);
    wait_for_read(1);
    ck_assert_int_eq(find(&b, 1), KV_BUSY);
    ck_assert_int_eq(find(&queued, 11), KV_BUSY);
    loader_leave(loader, &a.cursor);
    loader_leave(loader, &a.cursor);
    loader_leave(loader, &queued.cursor); /* is never read */
    set_gate(true);
    collect();
    ck_assert_int_eq(a.n_ready, 0);
    ck_assert_int_eq(b.n_ready, 1);
    ck_assert_int_eq(queued.n_ready, 0);
    ck_assert_int_eq(n_reads(), 1);
    ck_assert_int_eq(find(&b, 1), KV_OK);

    set_gate(false);
    ck_assert_int_eq(find(&a, 101), KV_BUSY);
    wait_for_read(2);
    loader_leave(loader, &a.cursor);
    ck_assert_int_eq(find(&a, 101), KV_BUSY); /* back, to the same load */
    set_gate(true);
    collect();
    ck_assert_int_eq(a.n_ready, 1);
    ck_assert_int_eq(n_reads(), 2);
    loader_leave(loader, &a.cursor);
    loader_leave(loader, &b.cursor);
}
END_TEST

START_TEST(a_reader_that_is_told_may_send_others_away)
{
    struct reader a = new_reader(), b = new_reader(), c = new_reader();

    a.leaves = &b;
    c.leaves = &c;
    set_gate(false);
    ck_assert_int_eq(find(&a, 1), KV_BUSY);
    ck_assert_int_eq(find(&b, 1), KV_BUSY);
    ck_assert_int_eq(find(&c, 1), KV_BUSY);
    set_gate(true);
    collect();
    ck_assert_int_eq(a.n_ready, 1);
    ck_assert_int_eq(b.n_ready, 0);
    ck_assert_int_eq(c.n_ready, 1);
    ck_assert_ptr_null(b.cursor.load);
    loader_leave(loader, &a.cursor);
}
END_TEST

START_TEST(what_could_not_be_read_is_said_once_and_tried_again)
{
    struct reader a = new_reader(), b = new_reader();

    disk.n_failures = 1;
    set_gate(false);
    ck_assert_int_eq(find(&a, 1), KV_BUSY);
    ck_assert_int_eq(find(&b, 1), KV_BUSY);
    set_gate(true);
    collect();
    ck_assert_int_eq(find(&a, 1), KV_IO);
    ck_assert_int_eq(find(&b, 1), KV_IO);
    ck_assert_int_eq(find(&a, 1), KV_BUSY);
    collect();
    ck_assert_int_eq(find(&a, 1), KV_OK);
    loader_leave(loader, &a.cursor);
}
END_TEST

START_TEST(a_loader_closes_whatever_is_under_way)
{
    struct reader a = new_reader(), b = new_reader(), c = new_reader();

    ck_assert_int_eq(find(&a, 1), KV_BUSY);
    collect();
    ck_assert_int_eq(find(&a, 1), KV_OK);
    set_gate(false);
    ck_assert_int_eq(find(&b, 11), KV_BUSY);
    wait_for_read(2);
    ck_assert_int_eq(find(&c, 21), KV_BUSY);
    tear_down();
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

START_TEST(without_memory_nothing_is_left_behind)
{
    const struct loader_config config = {.load = load, .wake = wake};
    struct reader reader = new_reader();
    struct loader *other = NULL;
    struct ring_chunk *chunk;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(loader_open(&other, &config, NULL), KV_NO_MEMORY);
    ck_assert_ptr_null(other);
    faulty_heap_fail_at(0);
    ck_assert_int_eq(
        loader_find(loader, &reader.cursor, 1, &chunk), KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
    ck_assert_ptr_null(reader.cursor.load);
    ck_assert_int_eq(n_reads(), 0);
}
END_TEST

/* ---- readers at random, and who leaves at random */

/* However long the thread takes. */
static bool find_at_last(struct reader *reader, uint64_t sequence)
{
    enum kv_status status;

    loader_leave(loader, &reader->cursor);
    while ((status = find(reader, sequence)) == KV_BUSY) {
        sched_yield();
        loader_collect(loader);
    }
    return status == KV_OK;
}

START_TEST(readers_at_random_are_served_or_told)
{
    static struct reader readers[16];
    int n_served = 0;

    srand(3);
    for (int i = 0; i < 16; i++)
        readers[i] = new_reader();
    for (int step = 0; step < 20000; step++) {
        struct reader *reader = &readers[rand() % 16];

        if (rand() % 8 == 0)
            loader_leave(loader, &reader->cursor);
        n_served += find(reader, 1 + (uint64_t)rand() % 300) == KV_OK;
        if (rand() % 4 == 0)
            loader_collect(loader);
        if (step % 100 == 0)
            n_served += find_at_last(reader, 1 + (uint64_t)rand() % 300);
    }
    ck_assert_int_gt(n_served, 100);
    for (int i = 0; i < 16; i++)
        loader_leave(loader, &readers[i].cursor);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_cursor_is_told_once_its_chunk_is_there,
        readers_that_go_the_same_way_read_the_disk_once,
        one_that_comes_later_finds_what_others_have_read,
        no_more_than_a_few_chunks_stay_that_nobody_has,
        leaving_while_a_load_runs_is_safe,
        a_reader_that_is_told_may_send_others_away,
        what_could_not_be_read_is_said_once_and_tried_again,
        a_loader_closes_whatever_is_under_way,
        without_memory_nothing_is_left_behind,
        readers_at_random_are_served_or_told,
    };

    return CHECK_RUN("loader", set_up, tear_down, tests);
}
