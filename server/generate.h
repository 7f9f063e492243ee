/* A Generate call in progress: gathers the tokens and the text of its request,
 * and sends them.
 *
 *   open ─┬─> (scheduler_submit) ─> start ─> messages ─> end: frees itself
 *         └─> close
 *
 * While a message is in flight what comes is gathered, and all of it goes in
 * the next, so a client that reads slowly gets fewer and longer messages; what
 * can be gathered is bounded by max_tokens.
 *
 * Thread: the owner's. */
#ifndef SERVER_GENERATE_H
#define SERVER_GENERATE_H

#include "kvpool/v1/inference_service.pb-c.h"
#include "server/server.h"

struct generate;

/* A checked message becomes a request, for the scheduler to take; session
 * aside, which is the caller's to set. The message belongs to the call once it
 * is started, and to the caller before. NULL: no memory. */
struct generate *generate_open(struct server *server, struct rpc_call *call,
    Kvpool__V1__GenerateRequest *message);

struct request *generate_request(struct generate *generate);

/* The request has been submitted: begins the stream. created: the call made its
 * session. */
void generate_start(struct generate *generate, bool created);

/* One that was not submitted. */
void generate_close(struct generate *generate);

#endif
