/* Zeroes given-up blocks: a few of them at once, more by a thread of its own,
 * so that the owner's is never held up.
 *
 * Thread: the owner's, everything; `scrubbed` is called on it too. */
#ifndef SERVER_SCRUBBER_H
#define SERVER_SCRUBBER_H

#include "base/error.h"
#include "pool/pool.h"
#include "rpc/loop.h"

struct scrubber;

/* scrubbed is called after blocks became free by the thread, once for several
 * jobs. */
enum kv_status scrubber_open(struct scrubber **out, struct rpc_loop *loop,
    struct pool *pool, void (*scrubbed)(void *ctx), void *ctx,
    struct kv_error *error);

/* Sees to what the pool has to zero now. Whether blocks became free by it. */
bool scrubber_pump(struct scrubber *scrubber);

/* Waits for the job in hand; what is left over is zeroed here and now, so that
 * the pool gets all of it back. After this only scrubber_close. */
void scrubber_stop(struct scrubber *scrubber);

/* After the loop has run its last: what the thread posted may still have been
 * on its way until then. */
void scrubber_close(struct scrubber *scrubber);

#endif
