#include "server/evict_repeat.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/clock.h"
#include "server/check.h"
#include "server/evict_page.h"
#include "server/message.h"

enum kv_status evict_repeat_init(struct server *server)
{
    kv_list_init(&server->evict_repeats);
    server->sha256 = EVP_MD_CTX_new();
    if (server->sha256 == NULL ||
        EVP_DigestInit_ex(server->sha256, EVP_sha256(), NULL) != 1)
        return KV_NO_MEMORY;
    return KV_OK;
}

void evict_repeat_fini(struct server *server)
{
    EVP_MD_CTX_free(server->sha256);
}

/* The server's context knows its algorithm: OpenSSL takes longer to find one
 * than to digest a request. */
bool evict_repeat_digest(struct server *server,
    const Kvpool__V1__EvictRequest *request, uint8_t digest[CALLS_DIGEST_BYTES])
{
    Kvpool__V1__EvictRequest bare = *request;
    struct rpc_bytes bytes;
    bool done;

    bare.request_id = (char *)"";
    bare.page_token = (char *)"";
    bare.page_size = 0;
    if (!message_encode(&bare.base, &bytes))
        return false;
    done = EVP_DigestInit_ex(server->sha256, NULL, NULL) == 1 &&
           EVP_DigestUpdate(server->sha256, bytes.data, bytes.n) == 1 &&
           EVP_DigestFinal_ex(server->sha256, digest, NULL) == 1;
    bytes.release(bytes.ctx);
    return done;
}

static void refuse_reuse(struct rpc_error *error)
{
    rpc_error_init(error, RPC_INVALID_ARGUMENT, "REQUEST_ID_REUSED", "%s", "");
    rpc_error_add_violation(error, "request_id",
        "given before with another request; allowed is an id of its own, or "
        "the same request again");
}

enum kv_status evict_repeat_find(struct evict_answer *answer,
    const uint8_t digest[CALLS_DIGEST_BYTES], size_t n_outcomes, bool *repeats,
    struct rpc_error *error)
{
    const Kvpool__V1__EvictRequest *request = answer->request;
    struct calls *calls = answer->server->calls;
    struct call *known = calls_find(
        calls, EVICT_ANONYMOUS, request->request_id, kv_clock_wall_ns());

    if (known != NULL &&
        memcmp(known->digest, digest, CALLS_DIGEST_BYTES) != 0) {
        refuse_reuse(error);
        return KV_INVALID;
    }
    if (request->page_token[0] != '\0' &&
        (known == NULL || !evict_page_parse(request->page_token, digest,
                              request->request_id, &answer->page_begin))) {
        check_fail_page_token(error);
        return KV_INVALID;
    }
    *repeats = known != NULL;
    if (known == NULL)
        return calls_begin(calls, EVICT_ANONYMOUS, request->request_id, digest,
            n_outcomes, &answer->known);
    call_retain(known);
    answer->known = known;
    return KV_OK;
}

/* What was remembered is what is answered. */
static void answer_remembered(struct evict_answer *answer)
{
    const struct call *known = answer->known;

    answer->response->sessions_evicted = known->sessions_evicted;
    answer->response->bytes_freed = known->bytes_freed;
    answer->response->sessions_held = known->sessions_held;
    answer->response->sessions_busy = known->sessions_busy;
    answer->response->sessions_forgotten = known->sessions_forgotten;
    answer->response->more = known->more;
    answer->response->replayed = true;
    answer->receipts->first_sequence = known->first_sequence;
    answer->receipts->last_sequence = known->last_sequence;
    answer->receipts->epoch = known->epoch;
    evict_answer_ready(answer);
}

void evict_repeat_answer(struct evict_answer *answer)
{
    if (answer->known->decided)
        answer_remembered(answer);
    else
        kv_list_append(&answer->server->evict_repeats, &answer->link);
}

/* Takes those that wait for the call from the list, one by one. */
static void settle_repeats(struct server *server, const struct call *known,
    void (*settle)(struct evict_answer *answer))
{
    KV_LIST_EACH (link, &server->evict_repeats) {
        struct evict_answer *answer =
            KV_LIST_ENTRY(link, struct evict_answer, link);

        if (answer->known != known)
            continue;
        kv_list_remove(&answer->link);
        settle(answer);
    }
}

void evict_repeat_decided(const struct evict_answer *first)
{
    calls_decide(first->server->calls, first->known, first->response,
        first->receipts, kv_clock_wall_ns());
    settle_repeats(first->server, first->known, answer_remembered);
}

void evict_repeat_refused(struct evict_answer *first)
{
    struct call *known = first->known;

    first->known = NULL;
    settle_repeats(first->server, known, evict_answer_refuse);
    calls_abandon(first->server->calls, known);
}
