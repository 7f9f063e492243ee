/* Checks that several services make of their requests. Each adds a violation to
 * *error, which starts zeroed, and names the field by its path. */
#ifndef SERVER_CHECK_H
#define SERVER_CHECK_H

#include <stdbool.h>

#include "engine/model.h"
#include "kvpool/v1/common.pb-c.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "pool/observer.h"
#include "rpc/error.h"

void check_tenant(
    struct rpc_error *error, const char *field, const char *tenant);
void check_session_id(
    struct rpc_error *error, const char *field, const char *id);

/* key may be NULL: it is one violation then. */
void check_session_key(struct rpc_error *error, const char *field,
    const Kvpool__V1__SessionKey *key);

/* value in [least, most], or 0 for the default; returns the value in force. */
uint32_t check_count(struct rpc_error *error, const char *field, uint32_t value,
    uint32_t least, uint32_t most, uint32_t standard);

/* Filters and orders of sessions. */
void check_session_filter(struct rpc_error *error, const char *field,
    const Kvpool__V1__SessionFilter *filter);
void check_session_order(
    struct rpc_error *error, const char *field, Kvpool__V1__SessionOrder order);

/* A part of a snapshot. A stream that begins with one has no BLOCK_MAP. */
void check_section(struct rpc_error *error, const char *field,
    Kvpool__V1__SnapshotSection section);
void check_stream_section(struct rpc_error *error, const char *field,
    Kvpool__V1__SnapshotSection section);

/* Each below the vocabulary's size; the first that is not is named. */
void check_ids(struct rpc_error *error, const char *field, const uint32_t *ids,
    size_t n_ids, uint32_t n_vocab);

/* A GenerateRequest but for its model and the length of its input;
 * check_generate.c. */
#define CHECK_STANDARD_MAX_TOKENS 256 /* where it says none */
#define CHECK_MAX_BIASES 1024
void check_generate(struct rpc_error *error, const struct model_shape *shape,
    const Kvpool__V1__GenerateRequest *message);

/* Whether a model of this name is loaded, and can be used; empty means the one
 * that is. If not, *error is started over with MODEL_NOT_FOUND or
 * MODEL_UNAVAILABLE. */
bool check_model(
    struct rpc_error *error, const struct model *model, const char *name);

/* Starts *error over: the page token of the request is none of its own. */
void check_fail_page_token(struct rpc_error *error);

/* The pool's form of a key; borrowed from the strings. */
struct pool_key check_pool_key(const char *tenant, const char *id);

#endif
