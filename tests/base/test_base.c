#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/utf8.h"
#include "base/zero.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

START_TEST(siphash_tells_lengths_and_secrets_apart)
{
    const uint64_t a[2] = {1, 2}, b[2] = {1, 3};

    ck_assert_uint_ne(kv_siphash(a, "", 0), kv_siphash(a, "\0", 1));
    ck_assert_uint_ne(
        kv_siphash(a, "abcdefgh", 8), kv_siphash(b, "abcdefgh", 8));
    ck_assert_uint_eq(
        kv_siphash(a, "abcdefgh", 8), kv_siphash(a, "abcdefgh", 8));
}
END_TEST

struct entry {
    struct kv_map_node node;
    int key;
};

static bool entry_is(const struct kv_map_node *node, const void *key)
{
    return ((const struct entry *)(const void *)node)->key == *(const int *)key;
}

static uint64_t hash_of(const struct kv_map *map, const int *key)
{
    return kv_map_hash(map, &(struct kv_bytes){key, sizeof *key}, 1);
}

START_TEST(a_map_finds_what_is_in_it_and_nothing_else)
{
    static struct entry entries[1000];
    struct kv_map map;
    const uint64_t secret[2] = {5, 7};

    ck_assert_int_eq(kv_map_init(&map, 16, secret, entry_is), KV_OK);
    for (int i = 0; i < 1000; i++) {
        entries[i].key = i;
        kv_map_insert(&map, &entries[i].node, hash_of(&map, &i));
    }
    for (int i = 0; i < 1000; i += 2)
        kv_map_remove(&map, &entries[i].node);
    for (int i = 0; i < 1000; i++) {
        struct kv_map_node *found = kv_map_find(&map, hash_of(&map, &i), &i);

        ck_assert_ptr_eq(found, i % 2 == 0 ? NULL : &entries[i].node);
    }
    ck_assert_uint_eq(map.n_entries, 500);
    kv_map_fini(&map);
}
END_TEST

START_TEST(a_map_that_grows_keeps_what_is_in_it)
{
    static struct entry entries[1000];
    struct kv_map map;

    ck_assert_int_eq(
        kv_map_init(&map, 1, (uint64_t[2]){5, 7}, entry_is), KV_OK);
    for (int i = 0; i < 1000; i++) {
        entries[i].key = i;
        ck_assert_int_eq(kv_map_grow(&map), KV_OK);
        kv_map_insert(&map, &entries[i].node, hash_of(&map, &i));
    }
    ck_assert_uint_ge(map.n_buckets, 1000);
    for (int i = 0; i < 1000; i++)
        ck_assert_ptr_eq(
            kv_map_find(&map, hash_of(&map, &i), &i), &entries[i].node);
    faulty_heap_install();
    faulty_heap_fail_at(0);
    map.n_entries = map.n_buckets; /* as if it were full */
    ck_assert_int_eq(kv_map_grow(&map), KV_NO_MEMORY);
    ck_assert_uint_eq(map.n_entries, map.n_buckets);
    faulty_heap_fail_at(-1);
    kv_heap_use(NULL);
    kv_map_fini(&map);
}
END_TEST

START_TEST(a_large_table_is_zero_from_end_to_end)
{
    size_t n = (size_t)9 << 20;
    unsigned char *table = kv_calloc_table(n, 1), *end = table + n;

    ck_assert_ptr_nonnull(table);
    while (end > table && end[-1] == 0)
        end--;
    ck_assert_ptr_eq(end, table);
    memset(table, 1, n);
    kv_free(table);
}
END_TEST

START_TEST(a_map_key_keeps_the_boundaries_of_its_parts)
{
    const struct kv_bytes one[] = {{"ab", 2}, {"c", 1}};
    const struct kv_bytes two[] = {{"a", 1}, {"bc", 2}};
    struct kv_map map;

    ck_assert_int_eq(
        kv_map_init(&map, 1, (uint64_t[2]){1, 2}, entry_is), KV_OK);
    ck_assert_uint_ne(kv_map_hash(&map, one, 2), kv_map_hash(&map, two, 2));
    kv_map_fini(&map);
}
END_TEST

START_TEST(a_list_keeps_order_and_survives_removal_while_walking)
{
    struct kv_list list, nodes[4];
    int seen = 0;

    kv_list_init(&list);
    for (int i = 0; i < 4; i++)
        kv_list_append(&list, &nodes[i]);
    KV_LIST_EACH (node, &list) {
        ck_assert_ptr_eq(node, &nodes[seen]);
        kv_list_remove(node);
        seen++;
    }
    ck_assert_int_eq(seen, 4);
    ck_assert(kv_list_empty(&list));
}
END_TEST

START_TEST(utf8_takes_what_rfc_3629_allows_and_nothing_else)
{
    static const char *const good[] = {"", "a", "\xC2\x80", "\xE0\xA0\x80",
        "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"};
    static const char *const bad[] = {"\x80", "\xC0\x80", "\xC1\xBF",
        "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xC2", "\xE2\x82", "a\xFF"};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert(kv_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!kv_utf8_valid(bad[i], strlen(bad[i])));
    ck_assert_int_eq(kv_utf8_length("\xE2\x82", 2), -1);
    ck_assert(kv_utf8_has_control("a\nb", 3));
    ck_assert(kv_utf8_has_control("\xC2\x85", 2));
    ck_assert(!kv_utf8_has_control("\xC2\xA0gr\xC3\xBC\xC3\x9F", 8));
}
END_TEST

static size_t log_line(char *line, size_t size, enum kv_log_format format)
{
    int ends[2];
    ssize_t n;

    ck_assert_int_eq(pipe(ends), 0);
    kv_log_set_fd(ends[1]);
    kv_log_set_format(format);
    kv_log(KV_LOG_INFO, "t", "two words", KV_LOG_TEXT("id", "a\"\n=b"),
        KV_LOG_UINT("n", 7), KV_LOG_INT("m", -7), KV_LOG_BOOL("yes", true),
        KV_LOG_REAL("r", 0.5));
    n = read(ends[0], line, size - 1);
    ck_assert_int_gt(n, 0);
    line[n] = '\0';
    close(ends[0]);
    close(ends[1]);
    kv_log_set_fd(2);
    return (size_t)n;
}

START_TEST(a_log_line_cannot_be_broken_by_its_values)
{
    char line[512];
    size_t n = log_line(line, sizeof line, KV_LOG_LOGFMT);

    ck_assert_ptr_eq(strchr(line, '\n'), line + n - 1);
    ck_assert_ptr_nonnull(strstr(line, "level=info target=t msg=\"two words\" "
                                       "id=\"a\\\"\\u000a=b\" n=7 m=-7 "
                                       "yes=true r=0.5\n"));
    n = log_line(line, sizeof line, KV_LOG_JSON);
    ck_assert_ptr_eq(strchr(line, '\n'), line + n - 1);
    ck_assert_ptr_nonnull(strstr(line, "\"id\":\"a\\\"\\u000a=b\",\"n\":7,"
                                       "\"m\":-7,\"yes\":true,\"r\":0.5}\n"));
}
END_TEST

START_TEST(zeroing_past_the_caches_ends_where_it_is_told_to)
{
    static _Alignas(KV_ZERO_BYTES) unsigned char bytes[1 << 16];

    for (size_t n = 0; n <= sizeof bytes / 2; n = 2 * n + KV_ZERO_BYTES) {
        unsigned char *at = bytes + KV_ZERO_BYTES;

        memset(bytes, 0xA5, sizeof bytes);
        kv_zero_cold(at, n);
        for (size_t i = 0; i < sizeof bytes; i++)
            ck_assert_uint_eq(
                bytes[i], &bytes[i] >= at && &bytes[i] < at + n ? 0 : 0xA5);
    }
}
END_TEST

START_TEST(a_log_hears_of_what_goes_on_ever_more_seldom)
{
    unsigned n_due = 0;

    for (uint64_t n_times = 1; n_times <= 1000; n_times++)
        n_due += kv_log_is_due(n_times);
    ck_assert_uint_eq(n_due, 10);
    ck_assert(kv_log_is_due(1));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        siphash_tells_lengths_and_secrets_apart,
        a_map_finds_what_is_in_it_and_nothing_else,
        a_map_that_grows_keeps_what_is_in_it,
        a_large_table_is_zero_from_end_to_end,
        a_map_key_keeps_the_boundaries_of_its_parts,
        a_list_keeps_order_and_survives_removal_while_walking,
        utf8_takes_what_rfc_3629_allows_and_nothing_else,
        a_log_line_cannot_be_broken_by_its_values,
        a_log_hears_of_what_goes_on_ever_more_seldom,
        zeroing_past_the_caches_ends_where_it_is_told_to,
    };

    return CHECK_RUN("base", NULL, NULL, tests);
}
