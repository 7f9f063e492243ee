/* Words for people: escaped names, human units, points in time; and the reverse
 * for what people type.
 *
 * What a server sends is not trusted on a terminal: control characters, bytes
 * that are not UTF-8, and characters that turn the direction of writing appear
 * as \x1b or \u202e. Any thread. */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Returned by value: text_bytes(n).s lives until the end of the expression. */
struct text {
    char s[48];
};

/* Room for a name of the contract (128 bytes) wherever all of it is escaped. */
struct text_name {
    char s[128 * 4 + 4];
};

enum text_style {
    TEXT_NAME,  /* one line; a backslash is doubled, so nothing is ambiguous */
    TEXT_PROSE, /* newline and tab pass */
};

/* Writes n bytes, made harmless. */
void text_write(FILE *out, const char *text, size_t n, enum text_style style);

/* A name, made harmless, "..." at its end if it is longer than a name may be.
 */
struct text_name text_name(const char *name);

/* "1 session", "2 sessions"; "1 batch", "2 batches". A noun of at most 24
 * bytes. */
struct text text_count(uint64_t n, const char *noun);

/* "17 B", "9.0 MiB" (binary units, one decimal). */
struct text text_bytes(uint64_t n_bytes);

/* "850 ns", "12.3 ms", "4.2 s", "3 min 5 s", "2 h 4 min", "3 d 4 h". */
struct text text_duration(int64_t duration_ns);

/* "2026-11-21T20:00:46.123Z". */
struct text text_time(int64_t unix_ns);

/* "12.5%". */
struct text text_percent(double share);

/* Lower-case hexadecimal; at most 16 bytes of data are shown. */
struct text text_hex(const void *data, size_t n);

/* A decimal number; false if it is none, or above max. */
bool text_parse_count(const char *text, uint64_t max, uint64_t *out);

/* A finite decimal number. */
bool text_parse_real(const char *text, double *out);

/* A whole number and a unit of ns, us, ms, s, m, h: "500ms". "0" needs none. */
bool text_parse_duration(const char *text, int64_t *out_ns);

#endif
