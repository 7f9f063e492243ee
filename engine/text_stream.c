#include "engine/text_stream.h"

#include <assert.h>
#include <string.h>

#include "base/utf8.h"

/* Bytes gather in `partial` until they are a character, or cannot become one;
 * characters gather in `held` until they are a stop string, or cannot become
 * one. What is held is always the longest end of the text so far that begins
 * some stop string, so a stop string that completes is wholly in it. */

#define REPLACEMENT "\xEF\xBF\xBD"

void text_stream_init(
    struct text_stream *stream, const char *const *stops, size_t n_stops)
{
    assert(n_stops <= TEXT_STREAM_MAX_STOPS);
    for (size_t i = 0; i < n_stops; i++)
        assert(strlen(stops[i]) >= 1 &&
               strlen(stops[i]) <= TEXT_STREAM_STOP_BYTES);
    *stream = (struct text_stream){
        .stops = stops, .n_stops = n_stops, .stopped_by = -1};
}

static bool held_ends_with(
    const struct text_stream *stream, const char *text, size_t n)
{
    return n <= stream->n_held &&
           memcmp(stream->held + stream->n_held - n, text, n) == 0;
}

/* The longest stop string that ends here; sets stopped_by. */
static size_t match_stop(struct text_stream *stream)
{
    size_t best = 0;

    for (size_t i = 0; i < stream->n_stops; i++) {
        size_t n = strlen(stream->stops[i]);

        if (n > best && held_ends_with(stream, stream->stops[i], n)) {
            best = n;
            stream->stopped_by = (int)i;
        }
    }
    return best;
}

/* Bytes at the end of held that begin a stop string. */
static size_t count_waiting(const struct text_stream *stream)
{
    size_t best = 0;

    for (size_t i = 0; i < stream->n_stops; i++) {
        size_t n = strlen(stream->stops[i]) - 1;

        if (n > stream->n_held)
            n = stream->n_held;
        while (n > best && !held_ends_with(stream, stream->stops[i], n))
            n--;
        if (n > best)
            best = n;
    }
    return best;
}

/* Moves all but the last n_kept bytes to out. */
static size_t release(struct text_stream *stream, size_t n_kept, char *out)
{
    size_t n = stream->n_held - n_kept;

    memcpy(out, stream->held, n);
    memmove(stream->held, stream->held + n, n_kept);
    stream->n_held = n_kept;
    return n;
}

static size_t put_character(
    struct text_stream *stream, const char *character, size_t n, char *out)
{
    size_t n_stop;

    memcpy(stream->held + stream->n_held, character, n);
    stream->n_held += n;
    n_stop = match_stop(stream);
    if (n_stop == 0)
        return release(stream, count_waiting(stream), out);
    n = release(stream, n_stop, out);
    stream->n_held = 0;
    return n;
}

static size_t put_replacement(struct text_stream *stream, char *out)
{
    stream->n_partial = 0;
    return put_character(stream, REPLACEMENT, strlen(REPLACEMENT), out);
}

static size_t put_byte(struct text_stream *stream, char byte, char *out)
{
    size_t n_out = 0;
    int length;

    stream->partial[stream->n_partial++] = byte;
    length = kv_utf8_length(stream->partial, stream->n_partial);
    if (length == 0 && stream->n_partial > 1) {
        /* What was begun is not a character; the byte may begin another. */
        n_out = put_replacement(stream, out);
        if (stream->stopped_by >= 0)
            return n_out;
        stream->partial[stream->n_partial++] = byte;
        length = kv_utf8_length(stream->partial, stream->n_partial);
    }
    if (length < 0)
        return n_out;
    if (length == 0 || byte == '\0')
        return n_out + put_replacement(stream, out + n_out);
    stream->n_partial = 0;
    return n_out +
           put_character(stream, stream->partial, (size_t)length, out + n_out);
}

size_t text_stream_put(
    struct text_stream *stream, const char *bytes, size_t n, char *out)
{
    size_t n_out = 0;

    for (size_t i = 0; i < n && stream->stopped_by < 0; i++)
        n_out += put_byte(stream, bytes[i], out + n_out);
    return n_out;
}

size_t text_stream_end(struct text_stream *stream, char *out)
{
    size_t n_out = 0;

    if (stream->stopped_by < 0 && stream->n_partial > 0)
        n_out = put_replacement(stream, out);
    if (stream->stopped_by >= 0)
        return n_out;
    return n_out + release(stream, 0, out + n_out);
}
