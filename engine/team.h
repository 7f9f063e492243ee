/* A fixed team of threads that computes.
 *
 *     team_start ──> the leader, thread 0, runs lead(ctx)
 *                        team_each: every thread takes chunks of the items
 *                        team_each: ...
 *                    lead returns, the leader waits for the next start
 *
 * Threads that wait spin for some microseconds and then sleep. A round is over
 * when its last chunk is computed: a thread that comes late, because others
 * keep its core busy, is not waited for.
 *
 * Thread: team_start and team_close by one thread at a time, team_each by lead
 * alone. */
#ifndef ENGINE_TEAM_H
#define ENGINE_TEAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct team;

/* Items begin to end; `thread` is below the team's number of threads, and no
 * two calls at a time have the same one. */
typedef void (*team_job_cb)(
    void *ctx, size_t begin, size_t end, uint32_t thread);

/* n_threads is at least 1. nice above 0 is set for the threads, where the
 * system lets us; 0 leaves them as their starter is. KV_NO_MEMORY: also where
 * the system has no more threads for us. */
enum kv_status team_open(
    struct team **out, uint32_t n_threads, int nice, struct kv_error *error);

/* Not while a lead runs, though it may be about to return; NULL is fine. */
void team_close(struct team *team);

uint32_t team_n_threads(const struct team *team);

/* Not before the lead of the last start has come to its end; what that lead
 * calls last may already start the next. */
void team_start(struct team *team, void (*lead)(void *ctx), void *ctx);

/* The same, waiting until the lead has returned. */
void team_run(struct team *team, void (*lead)(void *ctx), void *ctx);

/* Splits the items into chunks of `chunk` (at least 1), of which a job has one
 * or some, and returns when all are computed. One chunk is computed here and
 * now, without waking anybody. */
void team_each(struct team *team, size_t n_items, size_t chunk, team_job_cb job,
    void *ctx);

#endif
