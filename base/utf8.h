/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, at most U+10FFFF.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character that starts at text (1 to 4), 0 if none is valid
 * there, or -1 if the n bytes are a proper beginning of a character. n is at
 * least 1. */
int kv_utf8_length(const char *text, size_t n);

bool kv_utf8_valid(const char *text, size_t n);

/* Whether there is a control character: U+0000 to U+001F, U+007F to U+009F.
 * The text must be valid. */
bool kv_utf8_has_control(const char *text, size_t n);

#endif
