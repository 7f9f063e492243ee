#include <stdio.h>
#include <string.h>

#include "receipts/cosignature.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

/* Of Debian's python3-cryptography, for the seed 00 01 .. 1f: the vector that a
 * second implementation made of the specification's words. */
#define SEED_SIGNER                                                            \
    "PRIVATE+KEY+witness.example/"                                             \
    "w1+e75f6532+BAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
#define SEED_KEY                                                               \
    "witness.example/w1+e75f6532+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
#define SEED_NOTE                                                              \
    "kvpool/0123\n20852163\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"    \
    "\n\xE2\x80\x94 kvpool/0123 Az3grlgtzPIC\n"
#define SEED_LINE                                                              \
    "\xE2\x80\x94 witness.example/w1 "                                         \
    "519lMgAAAABkGFDLJRfJqP3Lf/XWO/"                                           \
    "NcBMTLPuTfmjnfSPTT3ETvvWeOtr+"                                            \
    "ewmU3B7xBaG7cLdNFZud4Kjjt2O2DipN2sZ3zpa4sDA==\n"
#define SEED_TIME 1679315147

static struct checkpoint_signer ledger, witness;
static struct checkpoint_note note;
static char cosigned[CHECKPOINT_MAX_NOTE_BYTES];
static size_t n_cosigned;
static struct kv_error error;

static void set_up(void)
{
    struct checkpoint checkpoint = {
        .origin = "kvpool/0123", .tree_size = 20852163, .root = {{1, 2, 3}}};

    faulty_heap_install();
    ck_assert_int_eq(
        checkpoint_signer_generate(&ledger, "kvpool/0123", NULL), KV_OK);
    ck_assert_int_eq(
        cosignature_signer_generate(&witness, "w.example/1", NULL), KV_OK);
    checkpoint_sign(&ledger, &checkpoint, &note);
    ck_assert_int_eq(cosignature_add(&witness, 1000, note.bytes, note.n_bytes,
                         cosigned, &n_cosigned, &error),
        KV_OK);
}

static void tear_down(void)
{
    checkpoint_signer_fini(&ledger);
    checkpoint_signer_fini(&witness);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static enum kv_status verify(const char *bytes, size_t n, uint64_t *time_s)
{
    error.text[0] = '\0';
    return cosignature_verify(bytes, n, &witness.key, time_s, &error);
}

START_TEST(a_cosigned_note_is_the_ledgers_and_the_witnesss)
{
    struct checkpoint checkpoint;
    uint64_t time_s = 0;

    ck_assert_int_eq(verify(cosigned, n_cosigned, &time_s), KV_OK);
    ck_assert_uint_eq(time_s, 1000);
    ck_assert_int_eq(checkpoint_verify(cosigned, n_cosigned, &ledger.key,
                         &checkpoint, &error),
        KV_OK);
    ck_assert_uint_eq(checkpoint.tree_size, 20852163);
    ck_assert_mem_eq(cosigned, note.bytes, note.n_bytes);
}
END_TEST

START_TEST(a_note_that_nobody_cosigned_is_not_cosigned)
{
    uint64_t time_s;

    ck_assert_int_eq(verify(note.bytes, note.n_bytes, &time_s), KV_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(error.text, "w.example/1"));
}
END_TEST

START_TEST(no_single_bit_of_a_cosigned_note_may_differ)
{
    struct checkpoint checkpoint;
    uint64_t time_s;

    for (size_t i = 0; i < 8 * n_cosigned; i++) {
        cosigned[i / 8] ^= (char)(1 << i % 8);
        ck_assert(verify(cosigned, n_cosigned, &time_s) != KV_OK ||
                  checkpoint_verify(cosigned, n_cosigned, &ledger.key,
                      &checkpoint, NULL) != KV_OK);
        cosigned[i / 8] ^= (char)(1 << i % 8);
    }
}
END_TEST

START_TEST(no_beginning_of_a_cosigned_note_is_one)
{
    uint64_t time_s;

    for (size_t n = 0; n < n_cosigned; n++)
        ck_assert_int_ne(verify(cosigned, n, &time_s), KV_OK);
}
END_TEST

START_TEST(cosigning_again_replaces_the_older_line)
{
    static char again[CHECKPOINT_MAX_NOTE_BYTES];
    size_t n_again;
    uint64_t time_s;

    ck_assert_int_eq(cosignature_add(&witness, 2000, cosigned, n_cosigned,
                         again, &n_again, &error),
        KV_OK);
    ck_assert_uint_eq(n_again, n_cosigned);
    ck_assert_int_eq(verify(again, n_again, &time_s), KV_OK);
    ck_assert_uint_eq(time_s, 2000);
}
END_TEST

START_TEST(witnesses_stand_beside_each_other)
{
    static char both[CHECKPOINT_MAX_NOTE_BYTES];
    struct checkpoint_signer other;
    size_t n_both;
    uint64_t time_s;

    ck_assert_int_eq(
        cosignature_signer_generate(&other, "w.example/2", NULL), KV_OK);
    ck_assert_int_eq(cosignature_add(&other, 3000, cosigned, n_cosigned, both,
                         &n_both, &error),
        KV_OK);
    ck_assert_int_eq(verify(both, n_both, &time_s), KV_OK);
    ck_assert_uint_eq(time_s, 1000);
    ck_assert_int_eq(
        cosignature_verify(both, n_both, &other.key, &time_s, &error), KV_OK);
    ck_assert_uint_eq(time_s, 3000);
    checkpoint_signer_fini(&other);
}
END_TEST

START_TEST(a_ledgers_key_is_no_witnesss)
{
    struct checkpoint_key key;
    struct checkpoint_signer signer;

    ck_assert_int_eq(cosignature_key_parse(
                         &key, checkpoint_key_format(&ledger.key).s, &error),
        KV_INVALID);
    ck_assert_int_eq(checkpoint_key_parse(
                         &key, checkpoint_key_format(&witness.key).s, &error),
        KV_INVALID);
    ck_assert_int_eq(cosignature_signer_parse(
                         &signer, checkpoint_signer_format(&ledger).s, &error),
        KV_INVALID);
    ck_assert_int_eq(cosignature_key_parse(
                         &key, checkpoint_key_format(&witness.key).s, &error),
        KV_OK);
    ck_assert_mem_eq(key.id, witness.key.id, sizeof key.id);
    ck_assert_int_eq(cosignature_signer_parse(
                         &signer, checkpoint_signer_format(&witness).s, &error),
        KV_OK);
    checkpoint_signer_fini(&signer);
}
END_TEST

/* What another implementation made of the same words. */
START_TEST(a_known_cosignature_is_made_and_found_right)
{
    struct checkpoint_signer signer;
    struct checkpoint_key key;
    uint64_t time_s;

    ck_assert_int_eq(
        cosignature_signer_parse(&signer, SEED_SIGNER, &error), KV_OK);
    ck_assert_int_eq(cosignature_key_parse(&key, SEED_KEY, &error), KV_OK);
    ck_assert_int_eq(cosignature_add(&signer, SEED_TIME, SEED_NOTE,
                         strlen(SEED_NOTE), cosigned, &n_cosigned, &error),
        KV_OK);
    ck_assert_uint_eq(n_cosigned, strlen(SEED_NOTE SEED_LINE));
    ck_assert_mem_eq(cosigned, SEED_NOTE SEED_LINE, n_cosigned);
    ck_assert_int_eq(
        cosignature_verify(cosigned, n_cosigned, &key, &time_s, &error), KV_OK);
    ck_assert_uint_eq(time_s, SEED_TIME);
    checkpoint_signer_fini(&signer);
}
END_TEST

/* The specification's own example: its key is not known, its form is. */
START_TEST(the_specifications_example_can_be_read)
{
    static const char example[] =
        "example.com/behind-the-sofa\n20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\xE2\x80\x94 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/"
        "5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "\xE2\x80\x94 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DY"
        "n/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA"
        "==\n";
    uint64_t time_s;

    ck_assert_int_eq(
        verify(example, sizeof example - 1, &time_s), KV_NOT_FOUND);
    snprintf(witness.key.name, sizeof witness.key.name, "%s",
        "witness.example.com/w1");
    memcpy(witness.key.id, "\x8d\x66\xcf\x3f", 4);
    ck_assert_int_eq(verify(example, sizeof example - 1, &time_s), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "is not right"));
}
END_TEST

START_TEST(a_note_without_room_takes_no_line)
{
    static char full[CHECKPOINT_MAX_NOTE_BYTES], out[CHECKPOINT_MAX_NOTE_BYTES];
    size_t n = note.n_bytes, n_out;

    memcpy(full, note.bytes, n);
    while (n + 24 < sizeof full) {
        memcpy(full + n, "\xE2\x80\x94 someone Az3grlgtzPIC\n", 25);
        n += 25 - 1;
    }
    full[n - 1] = '\n';
    ck_assert_int_eq(
        cosignature_add(&witness, 1, full, n, out, &n_out, &error), KV_INVALID);
}
END_TEST

START_TEST(without_memory_nothing_is_signed_or_believed)
{
    uint64_t time_s;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(verify(cosigned, n_cosigned, &time_s), KV_NO_MEMORY);
    ck_assert_int_eq(cosignature_add(&witness, 1, note.bytes, note.n_bytes,
                         cosigned, &n_cosigned, &error),
        KV_NO_MEMORY);
    faulty_heap_fail_at(-1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_cosigned_note_is_the_ledgers_and_the_witnesss,
        a_note_that_nobody_cosigned_is_not_cosigned,
        no_single_bit_of_a_cosigned_note_may_differ,
        no_beginning_of_a_cosigned_note_is_one,
        cosigning_again_replaces_the_older_line,
        witnesses_stand_beside_each_other,
        a_ledgers_key_is_no_witnesss,
        a_known_cosignature_is_made_and_found_right,
        the_specifications_example_can_be_read,
        a_note_without_room_takes_no_line,
        without_memory_nothing_is_signed_or_believed,
    };

    return CHECK_RUN("cosignature", set_up, tear_down, tests);
}
