#include <stdio.h>
#include <string.h>

#include "receipts/checkpoint.h"
#include "tests/support/check_main.h"

/* The example of the signed note package of Go's checksum database: a private
 * key, its public one, and what they signed. */
#define GO_SIGNER                                                              \
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUv"   \
    "xdXHKDFz"
#define GO_KEY                                                                 \
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

static struct checkpoint_signer signer;
static struct checkpoint_note note;
static struct checkpoint signed_one;

static void set_up(void)
{
    signed_one = (struct checkpoint){
        .origin = "kvpool/0123", .tree_size = 20852163, .root = {{1, 2, 3}}};
    ck_assert_int_eq(
        checkpoint_signer_generate(&signer, "kvpool/0123", NULL), KV_OK);
    checkpoint_sign(&signer, &signed_one, &note);
}

static void tear_down(void)
{
    checkpoint_signer_fini(&signer);
}

static enum kv_status verify(const char *bytes, size_t n)
{
    struct checkpoint read;
    struct kv_error error = {.text = ""};
    enum kv_status status =
        checkpoint_verify(bytes, n, &signer.key, &read, &error);

    ck_assert(status == KV_OK || error.text[0] != '\0');
    if (status == KV_OK) {
        ck_assert_str_eq(read.origin, signed_one.origin);
        ck_assert_uint_eq(read.tree_size, signed_one.tree_size);
        ck_assert_mem_eq(read.root.bytes, signed_one.root.bytes, 32);
    }
    return status;
}

static enum kv_status parse(const char *text, struct checkpoint *out)
{
    return checkpoint_parse(text, strlen(text), out, NULL);
}

START_TEST(a_note_reads_as_it_was_written)
{
    struct checkpoint read;

    ck_assert_int_eq(verify(note.bytes, note.n_bytes), KV_OK);
    ck_assert_int_eq(
        checkpoint_parse(note.bytes, note.n_bytes, &read, NULL), KV_OK);
    ck_assert_uint_eq(read.tree_size, 20852163);
}
END_TEST

START_TEST(a_note_has_the_form_of_the_specification)
{
    const char *start = "kvpool/0123\n20852163\n"
                        "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
                        "\n\xE2\x80\x94 kvpool/0123 ";

    ck_assert_int_eq(strncmp(note.bytes, start, strlen(start)), 0);
    ck_assert_uint_eq(note.n_bytes, strlen(start) + 92 + 1); /* 68 bytes */
    ck_assert_int_eq(note.bytes[note.n_bytes - 1], '\n');
}
END_TEST

START_TEST(no_single_bit_of_a_note_may_differ)
{
    for (size_t i = 0; i < 8 * note.n_bytes; i++) {
        note.bytes[i / 8] ^= (char)(1 << i % 8);
        ck_assert_int_ne(verify(note.bytes, note.n_bytes), KV_OK);
        note.bytes[i / 8] ^= (char)(1 << i % 8);
    }
}
END_TEST

START_TEST(no_beginning_of_a_note_is_one)
{
    for (size_t n = 0; n < note.n_bytes; n++)
        ck_assert_int_eq(verify(note.bytes, n), KV_INVALID);
}
END_TEST

START_TEST(an_empty_ledger_has_a_checkpoint)
{
    signed_one.tree_size = 0;
    checkpoint_sign(&signer, &signed_one, &note);
    ck_assert_int_eq(verify(note.bytes, note.n_bytes), KV_OK);
    signed_one.tree_size = UINT64_MAX;
    checkpoint_sign(&signer, &signed_one, &note);
    ck_assert_int_eq(verify(note.bytes, note.n_bytes), KV_OK);
}
END_TEST

/* The note with this line behind its own. */
static enum kv_status verify_with(const char *line)
{
    char both[2048];

    snprintf(both, sizeof both, "%.*s%s", (int)note.n_bytes, note.bytes, line);
    return verify(both, strlen(both));
}

START_TEST(signatures_of_others_stand_beside_ours)
{
    ck_assert_int_eq(
        verify_with("\xE2\x80\x94 witness/\xC3\xA9 Az3grlgtzPIC\n"), KV_OK);
    ck_assert_int_eq(
        verify_with("\xE2\x80\x94 witness/\xC3\xA9 Az3grlgtzPI\n"), KV_INVALID);
}
END_TEST

START_TEST(more_signatures_than_allowed_are_refused)
{
    static const char line[] = "\xE2\x80\x94 w Az3grlgtzPIC\n";
    char many[4096];
    size_t n = note.n_bytes;

    memcpy(many, note.bytes, n);
    for (size_t i = 1; i < CHECKPOINT_MAX_SIGNATURES; i++) {
        memcpy(many + n, line, sizeof line - 1);
        n += sizeof line - 1;
    }
    ck_assert_int_eq(verify(many, n), KV_OK);
    memcpy(many + n, line, sizeof line - 1);
    ck_assert_int_eq(verify(many, n + sizeof line - 1), KV_INVALID);
}
END_TEST

START_TEST(another_key_did_not_sign_it)
{
    struct checkpoint_signer other;
    struct checkpoint read;

    ck_assert_int_eq(
        checkpoint_signer_generate(&other, "kvpool/0123", NULL), KV_OK);
    ck_assert_int_eq(
        checkpoint_verify(note.bytes, note.n_bytes, &other.key, &read, NULL),
        KV_NOT_FOUND);
    /* One that has taken our name and id has not our signature. */
    memcpy(other.key.id, signer.key.id, sizeof other.key.id);
    ck_assert_int_eq(
        checkpoint_verify(note.bytes, note.n_bytes, &other.key, &read, NULL),
        KV_INVALID);
    checkpoint_signer_fini(&other);
}
END_TEST

#define ROOT "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define SIGNED "\n\xE2\x80\x94 w Az3grlgtzPIC\n"

START_TEST(texts_that_are_no_checkpoint_are_refused)
{
    static const char *const bad[] = {
        "",
        "\n",
        "\n\n",
        "a\n1\n" ROOT "\n",
        "a\n1\n" ROOT "\n\n",
        "\n1\n" ROOT "\n" SIGNED,
        "a\n\n" ROOT "\n" SIGNED,
        "a\n01\n" ROOT "\n" SIGNED,
        "a\n+1\n" ROOT "\n" SIGNED,
        "a\n1 \n" ROOT "\n" SIGNED,
        "a\n18446744073709551616\n" ROOT "\n" SIGNED,
        "a\n1\nAQID\n" SIGNED,
        "a\n1\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n" SIGNED,
        "a\n1\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n" SIGNED,
        "a\n1\n" ROOT " \n" SIGNED,
        "a\n1\n" ROOT "\n\nextension\n" SIGNED,
        "a\r\n1\n" ROOT "\n" SIGNED,
        "a\xFF\n1\n" ROOT "\n" SIGNED,
        "a\n1\n" ROOT "\n\n- w Az3grlgtzPIC\n",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94 w Az3grlgtzPIC",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94 w+ Az3grlgtzPIC\n",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94 w\xE3\x80\x80 Az3grlgtzPIC\n",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94  Az3grlgtzPIC\n",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94 w AAAA\n",
        "a\n1\n" ROOT "\n\n\xE2\x80\x94 w Az3grlgtzPIC Az3grlgtzPIC\n",
    };
    struct checkpoint read;

    ck_assert_int_eq(parse("a\n1\n" ROOT "\n" SIGNED, &read), KV_OK);
    ck_assert_int_eq(parse("a\n1\n" ROOT "\nextension\n" SIGNED, &read), KV_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(
            parse(bad[i], &read) == KV_INVALID, "accepted: %s", bad[i]);
}
END_TEST

START_TEST(a_note_that_is_too_long_is_refused)
{
    static char large[CHECKPOINT_MAX_NOTE_BYTES + 1];
    struct checkpoint read;

    memset(large, 'a', sizeof large);
    ck_assert_int_eq(
        checkpoint_parse(large, sizeof large, &read, NULL), KV_INVALID);
}
END_TEST

START_TEST(keys_read_as_they_were_written)
{
    struct checkpoint_key key;
    struct checkpoint_signer other;
    struct checkpoint_key_text text = checkpoint_key_format(&signer.key);

    ck_assert_int_eq(checkpoint_key_parse(&key, text.s, NULL), KV_OK);
    ck_assert_str_eq(key.name, signer.key.name);
    ck_assert_mem_eq(key.public_key, signer.key.public_key, 32);
    ck_assert_mem_eq(key.id, signer.key.id, 4);
    text = checkpoint_signer_format(&signer);
    ck_assert_int_eq(checkpoint_signer_parse(&other, text.s, NULL), KV_OK);
    ck_assert_mem_eq(other.secret, signer.secret, sizeof other.secret);
    checkpoint_signer_fini(&other);
}
END_TEST

START_TEST(keys_are_those_of_other_programs)
{
    struct checkpoint_signer peter;
    struct checkpoint_key key;

    ck_assert_int_eq(checkpoint_signer_parse(&peter, GO_SIGNER, NULL), KV_OK);
    ck_assert_str_eq(checkpoint_key_format(&peter.key).s, GO_KEY);
    ck_assert_str_eq(checkpoint_signer_format(&peter).s, GO_SIGNER);
    ck_assert_int_eq(checkpoint_key_parse(&key, GO_KEY, NULL), KV_OK);
    checkpoint_signer_fini(&peter);
}
END_TEST

START_TEST(keys_that_are_none_are_refused_and_not_repeated)
{
    static const char *const bad[] = {
        "",
        "+",
        "a+b",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumanN+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n",
        "Peter Neumann+c74f20a3+"
        "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        GO_SIGNER,
    };
    struct checkpoint_key key;
    struct checkpoint_signer other;
    struct kv_error error;
    char text[] = GO_SIGNER;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(checkpoint_key_parse(&key, bad[i], &error) == KV_INVALID,
            "accepted: %s", bad[i]);
    ck_assert_int_eq(
        checkpoint_signer_parse(&other, GO_KEY, &error), KV_INVALID);
    text[30]++; /* in its id */
    ck_assert_int_eq(checkpoint_signer_parse(&other, text, &error), KV_INVALID);
    ck_assert_ptr_null(strstr(error.text, "AYEKFALVFGy"));
}
END_TEST

/* A decoder may take bytes beyond ASCII for digits, some for the right ones. */
START_TEST(a_key_has_one_spelling)
{
    struct checkpoint_key key;

    for (size_t i = 0; i < strlen(GO_KEY); i++)
        for (int byte = 1; byte < 256; byte++) {
            char text[] = GO_KEY;

            text[i] = (char)byte;
            ck_assert_msg(text[i] == GO_KEY[i] ||
                              checkpoint_key_parse(&key, text, NULL) != KV_OK,
                "accepted with %02x at %zu", (unsigned)byte, i);
        }
}
END_TEST

START_TEST(names_that_no_note_may_have_are_refused)
{
    static const char *const bad[] = {"", "a b", "a+b", "a\tb", "a\x7F",
        "\xC2\xA0", "a\xE2\x80\xA8", "a\xFF"};
    struct checkpoint_signer other;
    char name[CHECKPOINT_NAME_BYTES + 2] = "";

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(
            checkpoint_signer_generate(&other, bad[i], NULL), KV_INVALID);
    memset(name, 'n', CHECKPOINT_NAME_BYTES + 1);
    ck_assert_int_eq(
        checkpoint_signer_generate(&other, name, NULL), KV_INVALID);
    name[CHECKPOINT_NAME_BYTES] = '\0';
    ck_assert_int_eq(checkpoint_signer_generate(&other, name, NULL), KV_OK);
    /* The longest origin and name still make a note. */
    memcpy(signed_one.origin, name, sizeof signed_one.origin);
    signed_one.tree_size = UINT64_MAX;
    checkpoint_sign(&other, &signed_one, &note);
    checkpoint_signer_fini(&signer);
    signer = other;
    ck_assert_int_eq(verify(note.bytes, note.n_bytes), KV_OK);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_note_reads_as_it_was_written,
        a_note_has_the_form_of_the_specification,
        no_single_bit_of_a_note_may_differ,
        no_beginning_of_a_note_is_one,
        an_empty_ledger_has_a_checkpoint,
        signatures_of_others_stand_beside_ours,
        more_signatures_than_allowed_are_refused,
        another_key_did_not_sign_it,
        texts_that_are_no_checkpoint_are_refused,
        a_note_that_is_too_long_is_refused,
        keys_read_as_they_were_written,
        keys_are_those_of_other_programs,
        keys_that_are_none_are_refused_and_not_repeated,
        a_key_has_one_spelling,
        names_that_no_note_may_have_are_refused,
    };

    return CHECK_RUN("checkpoint", set_up, tear_down, tests);
}
