/* The id of an Evict request, and the tokens of the pages of its answer.
 *
 * A token names a place among the outcomes and is bound to the request, by its
 * digest and id: it is good for a repeat of that request, after a restart of
 * the server too. */
#ifndef SERVER_EVICT_PAGE_H
#define SERVER_EVICT_PAGE_H

#include <stddef.h>

#include "receipts/calls.h"
#include "rpc/error.h"

#define EVICT_PAGE_TOKEN_BYTES 25

/* 1 to 64 bytes of visible ASCII, or empty. */
void evict_check_id(struct rpc_error *error, const char *request_id);

void evict_page_token(char out[EVICT_PAGE_TOKEN_BYTES],
    const uint8_t digest[CALLS_DIGEST_BYTES], const char *request_id,
    size_t begin);

/* false: the token is damaged, or another request's. */
bool evict_page_parse(const char *token,
    const uint8_t digest[CALLS_DIGEST_BYTES], const char *request_id,
    size_t *begin);

#endif
