/* A failure in words: which thing, what was given, what is allowed. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "base/status.h"

#define KV_ERROR_TEXT_BYTES 512

/* The caller's; untouched on success. */
struct kv_error {
    enum kv_status status;
    char text[KV_ERROR_TEXT_BYTES]; /* one line, no full stop, UTF-8 */
};

/* Fills *error (NULL is fine; text that is too long is cut) and returns
 * status, so that a check reads `return kv_error_set(error, KV_INVALID, ...)`.
 */
__attribute__((format(printf, 3, 4))) enum kv_status kv_error_set(
    struct kv_error *error, enum kv_status status, const char *format, ...);

/* Sets "<of>: " before what *error says of a failure, and returns its status;
 * KV_OK is left alone. */
enum kv_status kv_error_name(
    const char *of, enum kv_status status, struct kv_error *error);

#endif
