#include <string.h>

#include "receipts/crc32c.h"
#include "receipts/journal_format.h"
#include "tests/support/check_main.h"

/* RFC 3720, B.4, and the check value of the catalogues. */
START_TEST(the_checksum_has_the_known_values)
{
    unsigned char zeros[32] = {0}, ones[32], up[32], down[32];

    memset(ones, 0xff, sizeof ones);
    for (unsigned char i = 0; i < 32; i++) {
        up[i] = i;
        down[i] = (unsigned char)(31 - i);
    }
    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283);
    ck_assert_uint_eq(crc32c(0, zeros, 32), 0x8a9136aa);
    ck_assert_uint_eq(crc32c(0, ones, 32), 0x62a8ab43);
    ck_assert_uint_eq(crc32c(0, up, 32), 0x46dd794e);
    ck_assert_uint_eq(crc32c(0, down, 32), 0x113fdb5c);
    ck_assert_uint_eq(crc32c(0, NULL, 0), 0);
    ck_assert_uint_eq(crc32c_portable(0, "123456789", 9), 0xe3069283);
}
END_TEST

START_TEST(both_ways_to_the_checksum_agree_at_any_length_and_cut)
{
    unsigned char bytes[100];

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 167 + 13);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        uint32_t crc = crc32c_portable(7, bytes, n);

        ck_assert_uint_eq(
            crc32c(crc32c(7, bytes, n / 3), bytes + n / 3, n - n / 3), crc);
        if (crc32c_has_instruction())
            ck_assert_uint_eq(crc32c_instruction(7, bytes, n), crc);
    }
}
END_TEST

static size_t write_record(unsigned char *at, size_t n_payload, uint32_t seed)
{
    static const unsigned char payload[40] =
        "what is in it, all of it, as it is";
    const struct journal_record record = {
        .sequence = UINT64_C(0x0102030405060708),
        .epoch = 7,
        .flags = 0x1234,
        .type = JOURNAL_RECEIPT,
        .payload = payload,
        .n_payload = n_payload,
    };

    return journal_record_write(at, &record, seed);
}

START_TEST(a_record_is_read_as_it_was_written)
{
    unsigned char bytes[80];
    struct journal_record read;

    for (size_t n = 0; n <= 34; n++) {
        size_t n_bytes = write_record(bytes, n, 99);

        ck_assert_uint_eq(n_bytes % 8, 0);
        ck_assert_uint_eq(n_bytes, journal_record_bytes(n));
        ck_assert_int_eq(journal_record_parse(bytes, sizeof bytes, 99, &read),
            JOURNAL_PARSED);
        ck_assert_uint_eq(read.sequence, UINT64_C(0x0102030405060708));
        ck_assert_uint_eq(read.epoch, 7);
        ck_assert_uint_eq(read.flags, 0x1234);
        ck_assert_uint_eq(read.n_payload, n);
        ck_assert_uint_eq(read.n_bytes, n_bytes);
        for (size_t cut = 0; cut < n_bytes; cut++)
            ck_assert_int_eq(
                journal_record_parse(bytes, cut, 99, &read), JOURNAL_SHORT);
    }
}
END_TEST

START_TEST(a_record_of_another_segment_or_with_a_flipped_bit_is_none)
{
    unsigned char bytes[80];
    struct journal_record read;
    size_t n = write_record(bytes, 33, 99);

    ck_assert_int_eq(
        journal_record_parse(bytes, n, 98, &read), JOURNAL_DAMAGED);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ck_assert_int_ne(
            journal_record_parse(bytes, n, 99, &read), JOURNAL_PARSED);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    memset(bytes, 0, sizeof bytes);
    ck_assert_int_eq(
        journal_record_parse(bytes, sizeof bytes, 0, &read), JOURNAL_DAMAGED);
}
END_TEST

START_TEST(heads_of_files_are_read_as_written_or_refused_in_words)
{
    const struct journal_header header = {.id = 1,
        .pool_id = "0123456789abcde",
        .first_sequence = 2,
        .first_group = 3,
        .reserved_bytes = 4,
        .epoch = 5};
    unsigned char bytes[JOURNAL_HEADER_BYTES];
    struct journal_header read;
    const char *why;

    journal_header_write(bytes, &header);
    ck_assert(journal_header_parse(bytes, sizeof bytes, &read, &why));
    ck_assert_uint_eq(read.id, 1);
    ck_assert_mem_eq(read.pool_id, header.pool_id, 16);
    ck_assert_uint_eq(read.first_sequence, 2);
    ck_assert_uint_eq(read.first_group, 3);
    ck_assert_uint_eq(read.reserved_bytes, 4);
    ck_assert_uint_eq(read.epoch, 5);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ck_assert(!journal_header_parse(bytes, sizeof bytes, &read, &why));
        ck_assert_ptr_nonnull(why);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    ck_assert(!journal_header_parse(bytes, sizeof bytes - 1, &read, &why));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        the_checksum_has_the_known_values,
        both_ways_to_the_checksum_agree_at_any_length_and_cut,
        a_record_is_read_as_it_was_written,
        a_record_of_another_segment_or_with_a_flipped_bit_is_none,
        heads_of_files_are_read_as_written_or_refused_in_words,
    };

    return CHECK_RUN("journal_format", NULL, NULL, tests);
}
