/* Blocks as other programs wrote them, and what those read in them. */
#include <stdlib.h>
#include <string.h>

#include "engine/quants_super.h"
#include "tests/support/check_main.h"

#define MAX_BLOCK_BYTES 210

/* A block by ggml's quantiser; the hash is over the 256 floats that its
 * reader makes of it. */
static const struct {
    enum gguf_tensor_type type;
    const char *block;
    float first, middle, last; /* elements 0, 128, 255 */
    uint64_t hash;
} vectors[] = {
    {GGUF_Q4_K,
        "0d1b2d25f4f1f5f5e2f5f1f3e8ff5dc754488bbdcececdb9d6c4a27171702103"
        "0446779999dbfcdcbad8d382726343022163041457598a9ecebab9fba9b79460"
        "2144221367165a7baaaffeb8eaa8a684a885755015413736694a7a9ebcaefcba"
        "a8a676635552044337397a8eba8eccdce9cbbad6b58274634014044467789ace"
        "eab8aabac7c6a450525452433646588b",
        0x1.d6p-6f, 0x1.27c8p-2f, 0x1.34fcp-2f, UINT64_C(0x57f5b8686d82634d)},
    {GGUF_Q5_K,
        "fb16c025f3f1f5f6e2f2eeee96ff1a42f0e1c38383870f0f1e1e1e3c3c78f8f0"
        "f0e0e3c3c38387070f1f1e3e3c3c78f8aa91077c9e9e9c73ae9945f3f3e05307"
        "1a8d003433b7faba86a1c725e5d7871643b70919bfa3053d7d5663e6426f28b0"
        "42894526be2db4e6344ffd61b4304e08602beac04b937e7ee4a5f64d8a6efa75"
        "615d0cd7cbc50a968f83f52e752e99c9f3a896dd7a15f8e781280989dff136be"
        "f6826685b0ae59b0a5b8b5867d9db128",
        0x1.b00ap-4f, 0x1.899p-3f, 0x1.769bp-2f, UINT64_C(0x85b7c7b355645cf2)},
    {GGUF_Q6_K,
        "fe845b449131040118e025d848ad68430e48b3acbdd520e1170123772684d456"
        "c90646151b2a8b36beebdf0413d23d01c769cc0606f710b72e1906e85f301976"
        "2cb6d8db26b55f7025523133a860e9026a01638e569168bfee6703c0b2c12a0a"
        "11b8ce43f0a7eb0bae569db41ee1619e1dd01ad183a23b5a7b5c5ca6da866790"
        "a5a5e8ec9c9c5c4d0d0e1a0a5a1a62b2bda9a5e49490904050410216165a5a6e"
        "1506061b2e6b69aab5e9e5a4905440010116460a1a1b6ebaa9a9b5a491949040"
        "859f4ba09791938e9e9f809988ac9da0f30f",
        0x1.e8e08p-4f, 0x1.8583p-3f, 0x1.4ddep-2f,
        UINT64_C(0x2669d256541bab5d)},
};

static void load_hex(const char *text, unsigned char *out, size_t n)
{
    char digits[3] = "";

    ck_assert_uint_eq(strlen(text), 2 * n);
    for (size_t i = 0; i < n; i++) {
        memcpy(digits, text + 2 * i, 2);
        out[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
}

/* FNV-1a */
static uint64_t hash_bytes(const void *data, size_t n)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < n; i++)
        hash =
            (hash ^ ((const unsigned char *)data)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

START_TEST(super_blocks_are_what_their_writer_reads_in_them)
{
    const size_t block_bytes = gguf_type_block_bytes(vectors[_i].type);
    unsigned char block[2 * MAX_BLOCK_BYTES];
    float out[2 * QUANTS_LARGE];

    ck_assert_uint_le(block_bytes, MAX_BLOCK_BYTES);
    load_hex(vectors[_i].block, block, block_bytes);
    memcpy(block + block_bytes, block, block_bytes);
    quants_dequantize(vectors[_i].type, block, 2 * QUANTS_LARGE, out);
    ck_assert_float_eq(out[0], vectors[_i].first);
    ck_assert_float_eq(out[128], vectors[_i].middle);
    ck_assert_float_eq(out[255], vectors[_i].last);
    ck_assert_uint_eq(
        hash_bytes(out, QUANTS_LARGE * sizeof *out), vectors[_i].hash);
    ck_assert_mem_eq(out, out + QUANTS_LARGE, QUANTS_LARGE * sizeof *out);
}
END_TEST

/* Weight i is (i * i + i / 7) mod 3 - 1, laid out as BitNet's quantiser does.
 */
START_TEST(an_i2_s_holds_its_weights_in_the_order_of_its_writer)
{
    static const char text[] =
        "2556600664400aa88448899558811990022aa112222556600664400aa8844889"
        "600664400aa88448899558811990022aa112222556600664400aa88448899558";
    unsigned char block[64];
    int8_t integers[QUANTS_LARGE];
    const unsigned char *scale;

    load_hex(text, block, sizeof block);
    scale = quants_integers(GGUF_I2_S, block, integers);
    ck_assert_float_eq(quants_f16_to_f32(quants_load_u16(scale)), 1);
    for (int i = 0; i < QUANTS_LARGE; i++)
        ck_assert_int_eq(integers[i], (i * i + i / 7) % 3 - 1);
}
END_TEST

/* Every byte that ggml's struct has is one of ours. */
START_TEST(a_block_takes_the_bytes_that_files_have)
{
    ck_assert_uint_eq(
        gguf_type_block_bytes(GGUF_Q4_K), sizeof(struct block_q4_k));
    ck_assert_uint_eq(
        gguf_type_block_bytes(GGUF_Q5_K), sizeof(struct block_q5_k));
    ck_assert_uint_eq(
        gguf_type_block_bytes(GGUF_Q6_K), sizeof(struct block_q6_k));
    ck_assert_uint_eq(
        gguf_type_block_bytes(GGUF_I2_S), sizeof(struct block_i2_s));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("laws");
    Suite *suite = suite_create("quants");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tcase, super_blocks_are_what_their_writer_reads_in_them,
        0, (int)(sizeof vectors / sizeof *vectors));
    tcase_add_test(tcase, an_i2_s_holds_its_weights_in_the_order_of_its_writer);
    tcase_add_test(tcase, a_block_takes_the_bytes_that_files_have);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
