#include <string.h>

#include "cli/table.h"
#include "cli/text.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static void assert_written(
    const char *text, enum text_style style, const char *wanted)
{
    char *shown = NULL;
    size_t n;
    FILE *out = open_memstream(&shown, &n);

    text_write(out, text, strlen(text), style);
    fclose(out);
    ck_assert_str_eq(shown, wanted);
    free(shown);
}

START_TEST(no_text_of_a_server_reaches_a_terminal_as_a_command)
{
    assert_written("a\x1b[31mb", TEXT_NAME, "a\\x1b[31mb");
    assert_written("a\x1b[31mb", TEXT_PROSE, "a\\x1b[31mb");
    assert_written("a\nb\tc\rd", TEXT_PROSE, "a\nb\tc\\x0dd");
    assert_written("a\nb\tc\rd", TEXT_NAME, "a\\x0ab\\x09c\\x0dd");
    assert_written("\x7F", TEXT_PROSE, "\\x7f");
    assert_written("\xC2\x9B"
                   "31m",
        TEXT_PROSE, "\\u009b31m");
    assert_written("gr\xC3\xBC\xC3\x9F", TEXT_NAME, "gr\xC3\xBC\xC3\x9F");
}
END_TEST

START_TEST(one_is_one_and_all_else_are_many)
{
    ck_assert_str_eq(text_count(0, "session").s, "0 sessions");
    ck_assert_str_eq(text_count(1, "session").s, "1 session");
    ck_assert_str_eq(text_count(2, "session").s, "2 sessions");
    ck_assert_str_eq(text_count(1, "batch").s, "1 batch");
    ck_assert_str_eq(text_count(21, "batch").s, "21 batches");
    ck_assert_str_eq(text_count(0, "miss").s, "0 misses");
    ck_assert_str_eq(text_count(UINT64_MAX, "signed checkpoint").s,
        "18446744073709551615 signed checkpoints");
}
END_TEST

START_TEST(no_name_shows_as_another_one)
{
    assert_written("a\\x1b", TEXT_NAME, "a\\\\x1b");
    assert_written("a\xE2\x80\xAE"
                   "b",
        TEXT_NAME, "a\\u202eb");
    assert_written("a\xFF"
                   "b\xE2\x82",
        TEXT_NAME, "a\\xffb\\xe2\\x82");
}
END_TEST

START_TEST(a_name_of_the_contract_is_shown_whole_and_a_longer_one_cut)
{
    char name[200];

    memset(name, '\x1b', sizeof name);
    name[128] = '\0';
    ck_assert_uint_eq(strlen(text_name(name).s), 512);
    name[128] = 'x';
    name[199] = '\0';
    ck_assert_uint_lt(strlen(text_name(name).s), sizeof(struct text_name));
    ck_assert_ptr_nonnull(strstr(text_name(name).s, "..."));
}
END_TEST

START_TEST(sizes_and_times_are_in_units_that_people_read)
{
    ck_assert_str_eq(text_bytes(0).s, "0 B");
    ck_assert_str_eq(text_bytes(1023).s, "1023 B");
    ck_assert_str_eq(text_bytes(1024).s, "1.0 KiB");
    ck_assert_str_eq(text_bytes(9437184).s, "9.0 MiB");
    ck_assert_str_eq(text_bytes((1 << 20) - 1).s, "1.0 MiB");
    ck_assert_str_eq(text_bytes(UINT64_MAX).s, "16384.0 PiB");
    ck_assert_str_eq(text_duration(0).s, "0 ns");
    ck_assert_str_eq(text_duration(1500).s, "1.5 us");
    ck_assert_str_eq(text_duration(999999).s, "1.0 ms");
    ck_assert_str_eq(text_duration(12345678).s, "12.3 ms");
    ck_assert_str_eq(text_duration(4200000000).s, "4.2 s");
    ck_assert_str_eq(text_duration(185000000000).s, "3 min 5 s");
    ck_assert_str_eq(text_duration(7440000000000).s, "2 h 4 min");
    ck_assert_str_eq(text_duration(INT64_MAX).s, "106751 d 23 h");
    ck_assert_str_eq(text_duration(INT64_MIN).s, "-9223372036854775808 ns");
}
END_TEST

START_TEST(a_time_before_the_epoch_is_still_a_time)
{
    ck_assert_str_eq(text_time(0).s, "1970-01-01T00:00:00.000Z");
    ck_assert_str_eq(text_time(-1000000).s, "1969-12-31T23:59:59.999Z");
    ck_assert_str_eq(text_time(INT64_MAX).s, "2262-04-11T23:47:16.854Z");
    ck_assert_str_eq(text_time(INT64_MIN).s, "1677-09-21T00:12:43.145Z");
}
END_TEST

START_TEST(a_number_is_digits_and_in_range)
{
    uint64_t n = 7;
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x1", "1e3",
        "18446744073709551616", "99999999999999999999999"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!text_parse_count(bad[i], UINT64_MAX, &n));
    ck_assert_uint_eq(n, 7);
    ck_assert(text_parse_count("18446744073709551615", UINT64_MAX, &n));
    ck_assert_uint_eq(n, UINT64_MAX);
    ck_assert(!text_parse_count("256", 255, &n));
}
END_TEST

START_TEST(a_duration_needs_a_unit_that_exists)
{
    int64_t ns = 7;
    static const char *const bad[] = {"", "5", "s", "5d", "1.5s", "-5s", "5 s",
        "9223372036854775807h", "99999999999999999999s", "5sec"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!text_parse_duration(bad[i], &ns));
    ck_assert_int_eq(ns, 7);
    ck_assert(text_parse_duration("500ms", &ns));
    ck_assert_int_eq(ns, 500000000);
    ck_assert(text_parse_duration("2h", &ns));
    ck_assert_int_eq(ns, INT64_C(7200000000000));
    ck_assert(text_parse_duration("0", &ns));
    ck_assert_int_eq(ns, 0);
}
END_TEST

START_TEST(a_real_is_finite_and_decimal)
{
    double x;
    static const char *const bad[] = {
        "", "nan", "inf", "0x1", "1e999", "1,5", "1.0 ", "."};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!text_parse_real(bad[i], &x));
    ck_assert(text_parse_real("0.75", &x));
    ck_assert_double_eq(x, 0.75);
}
END_TEST

static void fill(struct table *table, const char *first, const char *second)
{
    table_cell(table, "%s", first);
    table_cell(table, "%s", second);
}

START_TEST(columns_of_a_table_stay_in_line)
{
    static const char *const titles[] = {"NAME", ">N"};
    struct table table = {.titles = titles, .n_columns = 2};
    char *shown = NULL;
    size_t n;
    FILE *out = open_memstream(&shown, &n);

    fill(&table,
        "gr\xC3\xBC\xC3\x9F"
        "e",
        "7");
    fill(&table, "x", "1234");
    ck_assert_int_eq(table_flush(&table, out), KV_OK);
    fill(&table, "y", "5");
    ck_assert_int_eq(table_flush(&table, out), KV_OK);
    table_fini(&table);
    fclose(out);
    ck_assert_str_eq(shown, "NAME      N\n"
                            "gr\xC3\xBC\xC3\x9F"
                            "e     7\n"
                            "x      1234\n"
                            "y         5\n");
    free(shown);
}
END_TEST

START_TEST(a_table_without_memory_prints_nothing_and_loses_nothing)
{
    static const char *const titles[] = {"A", "B"};

    for (int nth = 0; nth < 3; nth++) {
        struct table table = {.titles = titles, .n_columns = 2};

        faulty_heap_install();
        faulty_heap_fail_at(nth);
        fill(&table, "1", "2");
        ck_assert_int_eq(table_flush(&table, stdout), KV_NO_MEMORY);
        table_fini(&table);
        ck_assert_int_eq(faulty_heap_live(), 0);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        no_text_of_a_server_reaches_a_terminal_as_a_command,
        one_is_one_and_all_else_are_many,
        no_name_shows_as_another_one,
        a_name_of_the_contract_is_shown_whole_and_a_longer_one_cut,
        sizes_and_times_are_in_units_that_people_read,
        a_time_before_the_epoch_is_still_a_time,
        a_number_is_digits_and_in_range,
        a_duration_needs_a_unit_that_exists,
        a_real_is_finite_and_decimal,
        columns_of_a_table_stay_in_line,
        a_table_without_memory_prints_nothing_and_loses_nothing,
    };

    return CHECK_RUN("text", NULL, NULL, tests);
}
