#include "rpc/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "kvpool/rpc/v1/error_details.pb-c.h"
#include "rpc/proto.h"

#define MAX_ENCODED_BYTES 4096

static const char error_info_url[] = "type.googleapis.com/google.rpc.ErrorInfo";
static const char bad_request_url[] =
    "type.googleapis.com/google.rpc.BadRequest";
static const char domain[] = "kvpool";

/* Copies what is UTF-8, a question mark for each byte that is not, and whole
 * characters only: what we send must parse as a protobuf string. */
static void copy_text(char *out, size_t out_bytes, const char *text)
{
    size_t n = strlen(text), used = 0, step;
    int length;

    for (; n > 0; text += step, n -= step) {
        length = kv_utf8_length(text, n);
        step = length > 0 ? (size_t)length : 1;
        if (used + step >= out_bytes)
            break;
        memcpy(out + used, length > 0 ? text : "?", step);
        used += step;
    }
    out[used] = '\0';
}

__attribute__((format(printf, 3, 0))) static void format_text(
    char *out, size_t out_bytes, const char *format, va_list args)
{
    char text[1024];

    vsnprintf(text, sizeof text, format, args);
    copy_text(out, out_bytes, text);
}

void rpc_error_init(struct rpc_error *error, enum rpc_code code,
    const char *reason, const char *format, ...)
{
    va_list args;

    memset(error, 0, sizeof *error);
    error->code = code;
    copy_text(error->reason, sizeof error->reason, reason);
    va_start(args, format);
    format_text(error->message, sizeof error->message, format, args);
    va_end(args);
}

void rpc_error_add_metadata(
    struct rpc_error *error, const char *key, const char *format, ...)
{
    size_t i = error->n_metadata;
    va_list args;

    if (i == RPC_ERROR_MAX_METADATA)
        return;
    copy_text(error->metadata[i].key, sizeof error->metadata[i].key, key);
    va_start(args, format);
    format_text(error->metadata[i].value, sizeof error->metadata[i].value,
        format, args);
    va_end(args);
    error->n_metadata++;
}

/* The first violation's words, and how many did not fit. */
static void describe_violations(struct rpc_error *error)
{
    char more[64] = "", text[512];

    if (error->n_violations_left_out > 0)
        snprintf(more, sizeof more, " (and %zu more that are not listed)",
            error->n_violations_left_out);
    snprintf(text, sizeof text, "%s: %s%s", error->violations[0].field,
        error->violations[0].description, more);
    copy_text(error->message, sizeof error->message, text);
}

__attribute__((format(printf, 4, 0))) static void add_violation(
    struct rpc_error *error, const char *reason, const char *field,
    const char *format, va_list args)
{
    size_t i = error->n_violations;

    error->code = RPC_INVALID_ARGUMENT;
    if (error->reason[0] == '\0')
        copy_text(error->reason, sizeof error->reason, reason);
    if (i < RPC_ERROR_MAX_VIOLATIONS) {
        copy_text(error->violations[i].field, sizeof error->violations[i].field,
            field);
        format_text(error->violations[i].description,
            sizeof error->violations[i].description, format, args);
        error->n_violations++;
    } else {
        error->n_violations_left_out++;
    }
    describe_violations(error);
}

void rpc_error_add_violation(
    struct rpc_error *error, const char *field, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_violation(error, "INVALID_FIELD", field, format, args);
    va_end(args);
}

__attribute__((format(printf, 3, 4))) static void add_not_supported(
    struct rpc_error *error, const char *field, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_violation(error, "FIELD_NOT_SUPPORTED", field, format, args);
    va_end(args);
}

void rpc_error_add_unsupported(
    struct rpc_error *error, const char *field, const char *given)
{
    add_not_supported(error, field,
        "%s was given, but this server does not have that feature", given);
}

const char *rpc_code_name(enum rpc_code code)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };

    if ((size_t)code >= sizeof names / sizeof *names)
        return "UNKNOWN";
    return names[code];
}

/* ---- google.rpc.Status */

/* A detail fits a buffer of the whole struct's size: it holds one kind of the
 * struct's texts, and tags and lengths are fewer bytes than the other kind. */

static size_t encode_info(const struct rpc_error *error, uint8_t *out)
{
    Kvpool__Rpc__V1__MetadataEntry entries[RPC_ERROR_MAX_METADATA];
    Kvpool__Rpc__V1__MetadataEntry *list[RPC_ERROR_MAX_METADATA];
    Kvpool__Rpc__V1__ErrorInfo info = KVPOOL__RPC__V1__ERROR_INFO__INIT;

    for (size_t i = 0; i < error->n_metadata; i++) {
        kvpool__rpc__v1__metadata_entry__init(&entries[i]);
        entries[i].key = RPC_PROTO_TEXT(error->metadata[i].key);
        entries[i].value = RPC_PROTO_TEXT(error->metadata[i].value);
        list[i] = &entries[i];
    }
    info.reason = RPC_PROTO_TEXT(error->reason);
    info.domain = RPC_PROTO_TEXT(domain);
    info.n_metadata = error->n_metadata;
    info.metadata = list;
    return kvpool__rpc__v1__error_info__pack(&info, out);
}

static size_t encode_violations(
    const struct rpc_error *error, size_t n_violations, uint8_t *out)
{
    Kvpool__Rpc__V1__FieldViolation violations[RPC_ERROR_MAX_VIOLATIONS];
    Kvpool__Rpc__V1__FieldViolation *list[RPC_ERROR_MAX_VIOLATIONS];
    Kvpool__Rpc__V1__BadRequest request = KVPOOL__RPC__V1__BAD_REQUEST__INIT;

    for (size_t i = 0; i < n_violations; i++) {
        kvpool__rpc__v1__field_violation__init(&violations[i]);
        violations[i].field = RPC_PROTO_TEXT(error->violations[i].field);
        violations[i].description =
            RPC_PROTO_TEXT(error->violations[i].description);
        list[i] = &violations[i];
    }
    request.n_field_violations = n_violations;
    request.field_violations = list;
    return kvpool__rpc__v1__bad_request__pack(&request, out);
}

/* Allocates *out unless the whole would be too long; then returns its size
 * all the same. */
static size_t encode_status(
    const struct rpc_error *error, size_t n_violations, unsigned char **out)
{
    uint8_t info[sizeof *error], request[sizeof *error];
    Kvpool__Rpc__V1__Detail details[2] = {
        KVPOOL__RPC__V1__DETAIL__INIT, KVPOOL__RPC__V1__DETAIL__INIT};
    Kvpool__Rpc__V1__Detail *list[] = {&details[0], &details[1]};
    Kvpool__Rpc__V1__Status status = KVPOOL__RPC__V1__STATUS__INIT;
    size_t n;

    details[0].type_url = RPC_PROTO_TEXT(error_info_url);
    details[0].value.data = info;
    details[0].value.len = encode_info(error, info);
    details[1].type_url = RPC_PROTO_TEXT(bad_request_url);
    details[1].value.data = request;
    details[1].value.len = encode_violations(error, n_violations, request);
    status.code = (int32_t)error->code;
    status.message = RPC_PROTO_TEXT(error->message);
    status.n_details = n_violations > 0 ? 2 : 1;
    status.details = list;
    n = kvpool__rpc__v1__status__get_packed_size(&status);
    *out = n <= MAX_ENCODED_BYTES ? kv_calloc(n, 1) : NULL;
    if (*out != NULL)
        kvpool__rpc__v1__status__pack(&status, *out);
    return n;
}

size_t rpc_error_encode(const struct rpc_error *error, unsigned char **out)
{
    size_t n_violations = error->n_violations;
    unsigned char *bytes;
    size_t n;

    if (error->reason[0] == '\0' && n_violations == 0)
        return 0;
    n = encode_status(error, n_violations, &bytes);
    while (n > MAX_ENCODED_BYTES) /* the last violations are left out */
        n = encode_status(error, --n_violations, &bytes);
    if (bytes == NULL)
        return 0;
    *out = bytes;
    return n;
}

static void decode_info(
    struct rpc_error *error, const Kvpool__Rpc__V1__Detail *detail)
{
    Kvpool__Rpc__V1__ErrorInfo *info = kvpool__rpc__v1__error_info__unpack(
        RPC_PROTO_ALLOCATOR, detail->value.len, detail->value.data);

    if (info == NULL)
        return;
    copy_text(error->reason, sizeof error->reason, info->reason);
    for (size_t i = 0; i < info->n_metadata; i++)
        rpc_error_add_metadata(
            error, info->metadata[i]->key, "%s", info->metadata[i]->value);
    kvpool__rpc__v1__error_info__free_unpacked(info, RPC_PROTO_ALLOCATOR);
}

static void decode_violations(
    struct rpc_error *error, const Kvpool__Rpc__V1__Detail *detail)
{
    Kvpool__Rpc__V1__BadRequest *request = kvpool__rpc__v1__bad_request__unpack(
        RPC_PROTO_ALLOCATOR, detail->value.len, detail->value.data);
    const Kvpool__Rpc__V1__FieldViolation *each;

    if (request == NULL)
        return;
    for (size_t i = 0; i < request->n_field_violations &&
                       error->n_violations < RPC_ERROR_MAX_VIOLATIONS;
         i++) {
        each = request->field_violations[i];
        copy_text(error->violations[error->n_violations].field,
            sizeof error->violations->field, each->field);
        copy_text(error->violations[error->n_violations].description,
            sizeof error->violations->description, each->description);
        error->n_violations++;
    }
    kvpool__rpc__v1__bad_request__free_unpacked(request, RPC_PROTO_ALLOCATOR);
}

void rpc_error_decode(struct rpc_error *error, enum rpc_code code,
    const char *message, const unsigned char *details, size_t n)
{
    Kvpool__Rpc__V1__Status *status;
    const Kvpool__Rpc__V1__Detail *each;

    rpc_error_init(error, code, "", "%s", message);
    if (n == 0)
        return;
    status = kvpool__rpc__v1__status__unpack(RPC_PROTO_ALLOCATOR, n, details);
    if (status == NULL)
        return;
    for (size_t i = 0; i < status->n_details; i++) {
        each = status->details[i];
        if (strcmp(each->type_url, error_info_url) == 0)
            decode_info(error, each);
        else if (strcmp(each->type_url, bad_request_url) == 0)
            decode_violations(error, each);
    }
    kvpool__rpc__v1__status__free_unpacked(status, RPC_PROTO_ALLOCATOR);
}
