/* An error as it travels: a status code, a message, and google.rpc.Status with
 * one ErrorInfo and, for bad arguments, a BadRequest. */
#ifndef RPC_ERROR_H
#define RPC_ERROR_H

#include <stddef.h>
#include <stdint.h>

#define RPC_ERROR_MAX_METADATA 8
#define RPC_ERROR_MAX_VIOLATIONS 8

enum rpc_code { /* google.rpc.Code */
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16,
};

/* A value; copied freely. Texts that are too long are cut at a character. */
struct rpc_error {
    enum rpc_code code;
    char reason[64]; /* of ErrorReason, without its prefix; "" if unknown */
    char message[512];
    struct {
        char key[32];
        char value[160];
    } metadata[RPC_ERROR_MAX_METADATA];
    size_t n_metadata;
    struct {
        char field[96];
        char description[256];
    } violations[RPC_ERROR_MAX_VIOLATIONS];
    size_t n_violations, n_violations_left_out;
};

/* Starts an error over. */
__attribute__((format(printf, 4, 5))) void rpc_error_init(
    struct rpc_error *error, enum rpc_code code, const char *reason,
    const char *format, ...);

__attribute__((format(printf, 3, 4))) void rpc_error_add_metadata(
    struct rpc_error *error, const char *key, const char *format, ...);

/* The first violation makes the error INVALID_ARGUMENT, INVALID_FIELD unless a
 * reason was set before (start with a zeroed struct), and its words the
 * message. Beyond the maximum they are counted in the message only. */
__attribute__((format(printf, 3, 4))) void rpc_error_add_violation(
    struct rpc_error *error, const char *field, const char *format, ...);

/* The same for FIELD_NOT_SUPPORTED. */
void rpc_error_add_unsupported(
    struct rpc_error *error, const char *field, const char *given);

/* "INVALID_ARGUMENT" and so on. */
const char *rpc_code_name(enum rpc_code code);

/* google.rpc.Status, encoded; at most 4 KiB. 0 if there is nothing to add to
 * code and message, or no memory; else *out is kv_free'd by the caller. */
size_t rpc_error_encode(const struct rpc_error *error, unsigned char **out);

/* The reverse: details may be n = 0; unknown details are skipped, a damaged
 * one leaves code and message. */
void rpc_error_decode(struct rpc_error *error, enum rpc_code code,
    const char *message, const unsigned char *details, size_t n);

#endif
