#include "bench/sessions.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/heap.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

struct rpc_client *sessions_client(const char *address)
{
    struct rpc_client *client;
    struct kv_error error;

    if (rpc_client_open(&client, address, &error) != KV_OK)
        fail(address, error.text);
    return client;
}

void sessions_name(char name[SESSIONS_NAME_BYTES], unsigned nth)
{
    snprintf(name, SESSIONS_NAME_BYTES, "bench-%d-%u", (int)getpid(), nth);
}

/* What a message says of tokens generated, which the last one does. */
static uint32_t count_tokens(const unsigned char *message, size_t n_bytes)
{
    Kvpool__V1__GenerateResponse *response =
        kvpool__v1__generate_response__unpack(NULL, n_bytes, message);
    uint32_t n = 0;

    if (response == NULL)
        fail("Generate", "a message is damaged");
    if (response->finished != NULL && response->finished->usage != NULL)
        n = response->finished->usage->generated_tokens;
    kvpool__v1__generate_response__free_unpacked(response, NULL);
    return n;
}

static uint32_t wait_for_end(struct rpc_client_stream *stream)
{
    struct rpc_error error;
    unsigned char *message;
    uint32_t n_tokens = 0;
    size_t n;

    while (rpc_client_stream_next(stream, INT64_MAX, &message, &n, &error) ==
           KV_OK) {
        n_tokens += count_tokens(message, n);
        kv_free(message);
    }
    if (error.code != RPC_OK)
        fail("Generate", error.message);
    return n_tokens;
}

uint32_t sessions_generate(
    struct rpc_client *client, const char *session_id, uint32_t n_tokens)
{
    return sessions_ask(client, session_id, "What is a river?", n_tokens);
}

uint32_t sessions_ask(struct rpc_client *client, const char *session_id,
    const char *text, uint32_t n_tokens)
{
    static const struct rpc_client_options options = {.wait_for_ready = true};
    Kvpool__V1__GenerateRequest request = KVPOOL__V1__GENERATE_REQUEST__INIT;
    unsigned char bytes[256];
    struct rpc_client_stream *stream;
    uint32_t n_generated;

    request.session_id = (char *)session_id;
    request.input_case = KVPOOL__V1__GENERATE_REQUEST__INPUT_TEXT;
    request.text = (char *)text;
    request.max_tokens = n_tokens;
    assert(kvpool__v1__generate_request__get_packed_size(&request) <=
           sizeof bytes);
    if (rpc_client_stream_open(client, "/kvpool.v1.InferenceService/Generate",
            bytes, kvpool__v1__generate_request__pack(&request, bytes),
            &options, &stream) != KV_OK)
        fail("Generate", "no memory for the call");
    n_generated = wait_for_end(stream);
    rpc_client_stream_close(stream);
    return n_generated;
}

size_t sessions_evict_request(
    unsigned char out[SESSIONS_EVICT_BYTES], const char *session_id)
{
    Kvpool__V1__EvictRequest request = KVPOOL__V1__EVICT_REQUEST__INIT;
    Kvpool__V1__EvictTarget target = KVPOOL__V1__EVICT_TARGET__INIT;
    Kvpool__V1__EvictTarget *targets[1] = {&target};
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;

    key.session_id = (char *)session_id;
    target.target_case = KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
    target.session = &key;
    request.targets = targets;
    request.n_targets = 1;
    assert(kvpool__v1__evict_request__get_packed_size(&request) <=
           SESSIONS_EVICT_BYTES);
    return kvpool__v1__evict_request__pack(&request, out);
}
