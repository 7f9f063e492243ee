/* A small pool under audit, and the few moves that tests make with it. Time
 * stands still unless a test moves fixture_now_ns. */
#ifndef TESTS_POOL_FIXTURE_H
#define TESTS_POOL_FIXTURE_H

#include "base/clock.h"
#include "pool/pool.h"
#include "tests/pool/auditor.h"

#define FIXTURE_BLOCK_BYTES 64
#define FIXTURE_BLOCK_TOKENS 4
#define FIXTURE_BLOCKS 16

struct fixture {
    struct pool *pool;
    struct auditor auditor;
    int64_t now_ns;
};

extern struct fixture fixture;

/* 16 blocks of 4 tokens, 8 sessions, 64 kept tokens, no TTLs. */
struct pool_config fixture_config(void);

void fixture_open(const struct pool_config *config);
void fixture_set_up(void);    /* with fixture_config */
void fixture_tear_down(void); /* the laws must hold to the end */

void fixture_check(void); /* every law, and the auditor's books */

struct pool_key fixture_key(const char *id);
struct pool_session *fixture_get(const char *id);
struct pool_session *fixture_find(const char *id);

/* Appends n tokens, reserves their blocks and commits them. */
enum kv_status fixture_extend(struct pool_session *session, size_t n_tokens);

/* Gets, begins and extends; the session still runs. */
struct pool_session *fixture_run(const char *id, size_t n_tokens);

/* The same, and ends. */
void fixture_cache(const char *id, size_t n_tokens);

struct pool_outcome fixture_evict(const char *id, bool preempt);

/* Hands every job back. Returns how many. */
int fixture_scrub(void);

#endif
