/* Turns the pieces of generated tokens into text as it may be shown: valid
 * UTF-8, no character split, and nothing of a stop string that might be coming.
 * What is not valid UTF-8, and U+0000, becomes U+FFFD.
 *
 * The caller's memory; stop strings are borrowed. Nothing is allocated. */
#ifndef ENGINE_TEXT_STREAM_H
#define ENGINE_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#define TEXT_STREAM_MAX_STOPS 16
#define TEXT_STREAM_STOP_BYTES 256 /* of one stop string, at least 1 */

struct text_stream {
    const char *const *stops;
    size_t n_stops;
    char held[TEXT_STREAM_STOP_BYTES + 8]; /* not shown yet, valid UTF-8 */
    size_t n_held;
    char partial[4]; /* the beginning of a character */
    size_t n_partial;
    int stopped_by; /* index into stops, or -1 */
};

void text_stream_init(
    struct text_stream *stream, const char *const *stops, size_t n_stops);

/* Takes the next n bytes and writes what may be shown now to out, which has
 * room for TEXT_STREAM_OUT_BYTES(n). Returns how many bytes. Once a stop string
 * is complete (stopped_by >= 0) what came before it is out, and the rest is
 * dropped, now and later. Of several that complete with the same character the
 * longest counts, and of equal ones the first. */
#define TEXT_STREAM_OUT_BYTES(n) (3 * (n) + TEXT_STREAM_STOP_BYTES + 16)
size_t text_stream_put(
    struct text_stream *stream, const char *bytes, size_t n, char *out);

/* No more will come: what was held back. Room as for n = 1. */
size_t text_stream_end(struct text_stream *stream, char *out);

#endif
