#include "server/evict_page.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

void evict_check_id(struct rpc_error *error, const char *request_id)
{
    size_t n = strlen(request_id);
    bool is_visible = true;

    for (size_t i = 0; i < n; i++)
        is_visible &= request_id[i] > ' ' && request_id[i] <= '~';
    if (n > CALLS_ID_BYTES)
        rpc_error_add_violation(error, "request_id",
            "%zu bytes were given; allowed are at most %d", n, CALLS_ID_BYTES);
    else if (!is_visible)
        rpc_error_add_violation(error, "request_id",
            "a blank, or what is not ASCII, was given; allowed is visible "
            "ASCII");
}

/* The place, and before it what binds it to the request; both in hexadecimal.
 */
void evict_page_token(char out[EVICT_PAGE_TOKEN_BYTES],
    const uint8_t digest[CALLS_DIGEST_BYTES], const char *request_id,
    size_t begin)
{
    uint64_t seal[2];

    memcpy(seal, digest, sizeof seal);
    seal[0] = kv_siphash(seal, request_id, strlen(request_id));
    seal[0] = kv_siphash(seal, &begin, sizeof begin);
    snprintf(out, EVICT_PAGE_TOKEN_BYTES, "%016" PRIx64 "%08" PRIx32, seal[0],
        (uint32_t)begin);
}

bool evict_page_parse(const char *token,
    const uint8_t digest[CALLS_DIGEST_BYTES], const char *request_id,
    size_t *begin)
{
    char right[EVICT_PAGE_TOKEN_BYTES];

    if (strlen(token) != EVICT_PAGE_TOKEN_BYTES - 1)
        return false;
    *begin = strtoul(token + 16, NULL, 16) & UINT32_MAX;
    evict_page_token(right, digest, request_id, *begin);
    return strcmp(token, right) == 0;
}
