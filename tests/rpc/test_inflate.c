/* Compressed requests are made whole again within their bound. */
#include "rpc/inflate.h"

#include <string.h>

#include <zlib.h>

#include "base/heap.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_TEXT ((size_t)100000)
#define GZIP (16 + MAX_WBITS)

static unsigned char text[N_TEXT], packed[N_TEXT];
static size_t n_packed;

static void pack(int window_bits, size_t n)
{
    z_stream zlib = {.next_in = text, .avail_in = (uInt)n};

    memset(text, 'a', sizeof text);
    memcpy(text, "a beginning", 11);
    ck_assert_int_eq(
        deflateInit2(&zlib, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY),
        Z_OK);
    zlib.next_out = packed;
    zlib.avail_out = sizeof packed;
    ck_assert_int_eq(deflate(&zlib, Z_FINISH), Z_STREAM_END);
    n_packed = sizeof packed - zlib.avail_out;
    deflateEnd(&zlib);
}

static enum kv_status unpack(size_t n_bytes, size_t max_bytes)
{
    unsigned char *out = NULL;
    size_t n = 0;
    enum kv_status status = rpc_inflate(packed, n_bytes, max_bytes, &out, &n);

    if (status == KV_OK)
        ck_assert(n <= max_bytes && memcmp(out, text, n) == 0);
    kv_free(out);
    return status;
}

START_TEST(what_was_packed_comes_back)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 65536, N_TEXT};
    unsigned char *out;
    size_t n;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pack(i % 2 == 0 ? GZIP : MAX_WBITS, sizes[i]);
        out = NULL;
        ck_assert_int_eq(
            rpc_inflate(packed, n_packed, N_TEXT, &out, &n), KV_OK);
        ck_assert_uint_eq(n, sizes[i]);
        ck_assert(n == 0 || memcmp(out, text, n) == 0);
        kv_free(out);
    }
}
END_TEST

START_TEST(the_bound_is_what_it_says)
{
    pack(GZIP, N_TEXT);
    ck_assert_int_eq(unpack(n_packed, N_TEXT), KV_OK);
    ck_assert_int_eq(unpack(n_packed, N_TEXT - 1), KV_LIMIT);
    ck_assert_int_eq(unpack(n_packed, 1), KV_LIMIT);
    ck_assert_int_eq(unpack(n_packed, 0), KV_LIMIT);
}
END_TEST

START_TEST(every_cut_is_damage)
{
    pack(GZIP, 1000);
    for (size_t n = 0; n < n_packed; n++)
        ck_assert_int_eq(unpack(n, N_TEXT), KV_INVALID);
    packed[n_packed] = 0;
    ck_assert_int_eq(unpack(n_packed + 1, N_TEXT), KV_INVALID);
}
END_TEST

/* Most flips of a bit are damage; none is more than the bound, or a crash. */
START_TEST(a_flipped_bit_never_gets_past_the_checksum)
{
    pack(MAX_WBITS, 1000);
    for (size_t bit = 0; bit < 8 * n_packed; bit++) {
        packed[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert_int_ne(unpack(n_packed, N_TEXT), KV_NO_MEMORY);
        packed[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    ck_assert_int_eq(unpack(n_packed, N_TEXT), KV_OK);
}
END_TEST

START_TEST(every_failing_allocation_is_no_memory)
{
    enum kv_status status;
    int nth = 0;

    pack(GZIP, N_TEXT);
    faulty_heap_install();
    do {
        faulty_heap_fail_at(nth++);
        status = unpack(n_packed, N_TEXT);
        faulty_heap_fail_at(-1);
        ck_assert(status == KV_OK || status == KV_NO_MEMORY);
        ck_assert_int_eq(faulty_heap_live(), 0);
    } while (status != KV_OK);
    ck_assert_int_gt(nth, 3);
    kv_heap_use(NULL);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        what_was_packed_comes_back,
        the_bound_is_what_it_says,
        every_cut_is_damage,
        a_flipped_bit_never_gets_past_the_checksum,
        every_failing_allocation_is_no_memory,
    };

    return CHECK_RUN("rpc inflate", NULL, NULL, tests);
}
