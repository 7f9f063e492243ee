#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/published.h"
#include "tests/support/check_main.h"

#define N_READERS 3
#define N_WRITES 200000

struct value {
    uint64_t words[KV_PUBLISHED_WORDS];
};

static struct kv_published published;

static struct value value_of(uint64_t n)
{
    struct value value;

    for (size_t i = 0; i < KV_PUBLISHED_WORDS; i++)
        value.words[i] = n * (i + 1);
    return value;
}

static void write(uint64_t n)
{
    const struct value value = value_of(n);

    kv_published_write(&published, &value, sizeof value);
}

START_TEST(before_the_first_write_zeros_are_read)
{
    struct value value = value_of(7);

    ck_assert_uint_eq(kv_published_read(&published, &value, sizeof value), 0);
    for (size_t i = 0; i < KV_PUBLISHED_WORDS; i++)
        ck_assert_uint_eq(value.words[i], 0);
}
END_TEST

START_TEST(what_was_written_last_is_read_and_how_often)
{
    struct value value;

    write(4);
    write(5);
    ck_assert_uint_eq(kv_published_read(&published, &value, sizeof value), 2);
    for (size_t i = 0; i < KV_PUBLISHED_WORDS; i++)
        ck_assert_uint_eq(value.words[i], 5 * (i + 1));
}
END_TEST

static _Atomic int n_reading;

/* Returns whether every value was whole, none older than the one before, and
 * the one that its number says. */
static void *read_all(void *arg)
{
    static char yes;
    uint64_t last = 0, number;
    struct value value;
    bool ok = true;

    (void)arg;
    n_reading++;
    do {
        number = kv_published_read(&published, &value, sizeof value);
        ok = ok && number >= last;
        for (size_t i = 0; i < KV_PUBLISHED_WORDS; i++)
            ok = ok && value.words[i] == number * (i + 1);
        last = number;
    } while (number < N_WRITES);
    return ok ? &yes : NULL;
}

START_TEST(readers_see_values_whole_and_in_order_while_they_are_written)
{
    pthread_t readers[N_READERS];
    void *ok;

    n_reading = 0;
    for (int i = 0; i < N_READERS; i++)
        ck_assert_int_eq(pthread_create(&readers[i], NULL, read_all, NULL), 0);
    while (n_reading < N_READERS)
        continue;
    for (uint64_t n = 1; n <= N_WRITES; n++)
        write(n);
    for (int i = 0; i < N_READERS; i++) {
        pthread_join(readers[i], &ok);
        ck_assert_ptr_nonnull(ok);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        before_the_first_write_zeros_are_read,
        what_was_written_last_is_read_and_how_often,
        readers_see_values_whole_and_in_order_while_they_are_written,
    };

    return CHECK_RUN("published", NULL, NULL, tests);
}
