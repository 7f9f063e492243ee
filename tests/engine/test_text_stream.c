#include <stdint.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/text_stream.h"
#include "tests/support/check_main.h"

#define MAX_BYTES 400
#define MAX_TEXT (3 * MAX_BYTES + 1)

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t pick(uint64_t *state, size_t n)
{
    return (size_t)(next_random(state) % n);
}

/* The whole text at once: what cannot become a character, up to where that
 * shows, is one U+FFFD. */
static size_t naive_decode(const char *bytes, size_t n, char *out)
{
    size_t n_out = 0, i = 0;

    while (i < n) {
        int length = kv_utf8_length(bytes + i, n - i);
        size_t taken = 1;

        if (length > 0 && bytes[i] != '\0') {
            memcpy(out + n_out, bytes + i, (size_t)length);
            n_out += (size_t)length;
            i += (size_t)length;
            continue;
        }
        while (i + taken < n && kv_utf8_length(bytes + i, taken) == -1 &&
               kv_utf8_length(bytes + i, taken + 1) == -1)
            taken++;
        memcpy(out + n_out, "\xEF\xBF\xBD", 3);
        n_out += 3;
        i += taken;
    }
    return n_out;
}

/* Where the text ends: before the stop string that completes first. */
static size_t naive_stop(const char *text, size_t n, const char *const *stops,
    size_t n_stops, int *stopped_by)
{
    *stopped_by = -1;
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;

        for (size_t i = 0; i < n_stops; i++) {
            size_t n_stop = strlen(stops[i]);

            if (n_stop <= end && n_stop > longest &&
                memcmp(text + end - n_stop, stops[i], n_stop) == 0) {
                longest = n_stop;
                *stopped_by = (int)i;
            }
        }
        if (longest > 0)
            return end - longest;
    }
    return n;
}

/* Whether the end of the text begins one of the stop strings. */
static bool may_stop(const char *text, size_t n, size_t n_held,
    const char *const *stops, size_t n_stops)
{
    for (size_t i = 0; i < n_stops; i++)
        if (n_held < strlen(stops[i]) && n_held <= n &&
            memcmp(text + n - n_held, stops[i], n_held) == 0)
            return true;
    return n_held == 0;
}

static size_t random_bytes(uint64_t *state, char *bytes)
{
    static const char *const parts[] = {"a", "a", "b", "ab", "aab", "\xC3\xBC",
        "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xC3", "\xE2\x82", "\xF0\x9F\x98",
        "\x80", "\xFF", "\xED\xA0\x80", "\xEF\xBF\xBD", "\xC0\x80"};
    size_t n = 0, n_parts = pick(state, 80);
    bool is_dirty = pick(state, 2) == 0;

    for (size_t i = 0; i < n_parts; i++) {
        const char *part = parts[pick(state, is_dirty ? 16 : 8)];

        if (is_dirty && pick(state, 20) == 0) {
            bytes[n++] = '\0';
            continue;
        }
        memcpy(bytes + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

START_TEST(any_split_gives_what_the_whole_text_gives)
{
    static const char *const all[] = {"aab", "ab", "aaaa", "b\xC3\xBC", "aaab",
        "\xE2\x82\xAC"
        "a",
        "\xEF\xBF\xBD", "abaab", "\xF0\x9F\x98\x80", "aa"};
    uint64_t state = 0x9E3779B97F4A7C15u;

    for (int round = 0; round < 4000; round++) {
        char bytes[MAX_BYTES], text[MAX_TEXT], got[MAX_TEXT + 300];
        char out[TEXT_STREAM_OUT_BYTES(MAX_BYTES)];
        const char *stops[3];
        size_t n_stops = pick(&state, 4), n, n_text, n_got = 0;
        int stopped_by;
        struct text_stream stream;

        for (size_t i = 0; i < n_stops; i++)
            stops[i] = all[pick(&state, sizeof all / sizeof *all)];
        n = random_bytes(&state, bytes);
        n_text = naive_decode(bytes, n, text);
        n_text = naive_stop(text, n_text, stops, n_stops, &stopped_by);

        text_stream_init(&stream, stops, n_stops);
        for (size_t i = 0, taken; i < n; i += taken) {
            size_t n_out;

            taken = 1 + pick(&state, 7);
            if (taken > n - i)
                taken = n - i;
            n_out = text_stream_put(&stream, bytes + i, taken, out);
            ck_assert_uint_le(n_out, TEXT_STREAM_OUT_BYTES(taken));
            ck_assert(kv_utf8_valid(out, n_out));
            memcpy(got + n_got, out, n_out);
            n_got += n_out;
            ck_assert(may_stop(
                stream.held, stream.n_held, stream.n_held, stops, n_stops));
        }
        n_got += text_stream_end(&stream, got + n_got);
        ck_assert_uint_eq(n_got, n_text);
        ck_assert_mem_eq(got, text, n_text);
        ck_assert_int_eq(stream.stopped_by, stopped_by);
    }
}
END_TEST

START_TEST(without_stop_strings_a_character_is_out_with_its_last_byte)
{
    struct text_stream stream;
    char out[TEXT_STREAM_OUT_BYTES(4)];

    text_stream_init(&stream, NULL, 0);
    ck_assert_uint_eq(text_stream_put(&stream, "\xF0\x9F\x98", 3, out), 0);
    ck_assert_uint_eq(text_stream_put(&stream, "\x80", 1, out), 4);
    ck_assert_mem_eq(out, "\xF0\x9F\x98\x80", 4);
    ck_assert_uint_eq(text_stream_put(&stream, "a", 1, out), 1);
    ck_assert_uint_eq(text_stream_end(&stream, out), 0);
}
END_TEST

START_TEST(after_a_stop_nothing_more_comes)
{
    const char *const stops[] = {"END"};
    struct text_stream stream;
    char out[TEXT_STREAM_OUT_BYTES(16)];

    text_stream_init(&stream, stops, 1);
    ck_assert_uint_eq(text_stream_put(&stream, "ab EN", 5, out), 3);
    ck_assert_uint_eq(text_stream_put(&stream, "Dlater", 6, out), 0);
    ck_assert_int_eq(stream.stopped_by, 0);
    ck_assert_uint_eq(text_stream_put(&stream, "later", 5, out), 0);
    ck_assert_uint_eq(text_stream_end(&stream, out), 0);
}
END_TEST

START_TEST(a_stop_that_does_not_come_is_text)
{
    const char *const stops[] = {"END"};
    struct text_stream stream;
    char out[TEXT_STREAM_OUT_BYTES(16)];

    text_stream_init(&stream, stops, 1);
    ck_assert_uint_eq(text_stream_put(&stream, "EN", 2, out), 0);
    ck_assert_uint_eq(text_stream_put(&stream, "EN", 2, out), 2);
    ck_assert_uint_eq(text_stream_end(&stream, out), 2);
    ck_assert_mem_eq(out, "EN", 2);
}
END_TEST

START_TEST(the_longest_stop_strings_fit)
{
    char texts[TEXT_STREAM_MAX_STOPS][TEXT_STREAM_STOP_BYTES + 1];
    const char *stops[TEXT_STREAM_MAX_STOPS];
    char input[2 * TEXT_STREAM_STOP_BYTES];
    char out[TEXT_STREAM_OUT_BYTES(sizeof input)];
    struct text_stream stream;

    for (size_t i = 0; i < TEXT_STREAM_MAX_STOPS; i++) {
        memset(texts[i], 'a', TEXT_STREAM_STOP_BYTES - 1);
        texts[i][TEXT_STREAM_STOP_BYTES - 1] = (char)('b' + i);
        texts[i][TEXT_STREAM_STOP_BYTES] = '\0';
        stops[i] = texts[i];
    }
    memset(input, 'a', sizeof input);
    text_stream_init(&stream, stops, TEXT_STREAM_MAX_STOPS);
    ck_assert_uint_eq(text_stream_put(&stream, input, sizeof input, out),
        TEXT_STREAM_STOP_BYTES + 1);
    ck_assert_uint_eq(text_stream_put(&stream, "\xF0\x9F\x98\x80", 4, out),
        TEXT_STREAM_STOP_BYTES + 3);
    ck_assert_uint_eq(text_stream_end(&stream, out), 0);
    ck_assert_int_eq(stream.stopped_by, -1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        any_split_gives_what_the_whole_text_gives,
        without_stop_strings_a_character_is_out_with_its_last_byte,
        after_a_stop_nothing_more_comes,
        a_stop_that_does_not_come_is_text,
        the_longest_stop_strings_fit,
    };

    return CHECK_RUN("text_stream", NULL, NULL, tests);
}
