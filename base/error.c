#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

enum kv_status kv_error_set(
    struct kv_error *error, enum kv_status status, const char *format, ...)
{
    va_list args;

    if (error == NULL)
        return status;
    error->status = status;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return status;
}

enum kv_status kv_error_name(
    const char *of, enum kv_status status, struct kv_error *error)
{
    struct kv_error cause;

    if (status == KV_OK || error == NULL)
        return status;
    cause = *error;
    return kv_error_set(error, status, "%s: %s", of, cause.text);
}
