/* Watches that evictions keep to the quotas of tenants: by what the pool's
 * readers say, while it happens. */
#ifndef TESTS_POOL_QUOTA_WATCH_H
#define TESTS_POOL_QUOTA_WATCH_H

#include "tests/pool/fixture.h"

struct quota_watch {
    uint32_t n_asked; /* blocks that the present call asks for; set by the test
                       */
    uint64_t n_own, n_others, n_free; /* evictions for one's own quota, of those
                                         beyond theirs, and of anybody */
    void (*evicted)(void *ctx, const struct pool_eviction *eviction);
};

extern struct quota_watch quota_watch;

/* In front of the fixture's auditor; after fixture_open. */
void quota_watch_begin(void);

/* No tenant holds more than its hard quota, unless it was lowered meanwhile. */
void quota_watch_check_hard(const struct pool_session *session);

#endif
