/* Sessions with blocks in a kvpoold, for what is measured on them. */
#ifndef BENCH_SESSIONS_H
#define BENCH_SESSIONS_H

#include <stdint.h>

#include "rpc/client.h"

/* Generates up to so many tokens in a session, and waits for the last. Returns
 * how many there were. Whoever fails is told why, and ends the program: there
 * is nothing to measure then. */
uint32_t sessions_generate(
    struct rpc_client *client, const char *session_id, uint32_t n_tokens);

/* The same with these words for a prompt. */
uint32_t sessions_ask(struct rpc_client *client, const char *session_id,
    const char *text, uint32_t n_tokens);

/* A client of the server at address; ends the program likewise. */
struct rpc_client *sessions_client(const char *address);

/* The nth name of this process. */
#define SESSIONS_NAME_BYTES 32
void sessions_name(char name[SESSIONS_NAME_BYTES], unsigned nth);

/* An EvictRequest for that session alone; returns its length. */
#define SESSIONS_EVICT_BYTES 64
size_t sessions_evict_request(
    unsigned char out[SESSIONS_EVICT_BYTES], const char *session_id);

#endif
