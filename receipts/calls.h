/* Evict calls that may be repeated: what each was answered, by who called and
 * the id of the request. A repeat gets that answer and evicts nothing.
 *
 *   begin ──────> undecided ──decide──> remembered ──> forgotten
 *   add_receipt, at a start ───────────────^
 *
 * A call is forgotten when its time is over or there are too many, the longest
 * decided first; never while it is undecided. What the index gives out stays as
 * long as somebody holds a reference.
 *
 * After a restart the index is rebuilt from the batch receipts of the calls. A
 * call whose last batch is not among them was cut short by a crash: it has what
 * was recorded, and `more`.
 *
 * Thread: the owner's. Times are of the wall clock, as those of receipts are.
 */
#ifndef RECEIPTS_CALLS_H
#define RECEIPTS_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/map.h"
#include "kvpool/v1/pool_service.pb-c.h"

struct calls;

#define CALLS_ID_BYTES 64     /* of a request's id, at most */
#define CALLS_DIGEST_BYTES 32 /* of a request */

/* An outcome takes no more than this, however long its names and numbers. */
#define CALLS_OUTCOME_BYTES 352

struct calls_config {
    size_t max_calls; /* at least 1 */
    size_t max_bytes; /* of their outcomes together, but for the latest call */
    int64_t ttl_ns;
    uint64_t secret[2]; /* keys the map */
};

/* One call; to be read only. */
struct call {
    uint8_t digest[CALLS_DIGEST_BYTES];
    bool decided;
    int64_t time_unix_ns; /* when */

    /* Its receipts, all 0 where there are none. */
    uint32_t epoch;
    uint64_t first_sequence, last_sequence;

    uint64_t sessions_evicted, bytes_freed;
    uint64_t sessions_held, sessions_busy, sessions_forgotten;
    bool more;
    size_t n_outcomes;

    /* The index's. */
    struct kv_map_node node;
    struct kv_list link;
    size_t n_refs;
    uint32_t n_batches;
    unsigned char *outcomes; /* an encoded EvictResponse of outcomes only */
    size_t n_bytes, n_room;
    size_t caller_bytes, id_bytes;
    char name[]; /* who called, then the id */
};

/* KV_NO_MEMORY. */
enum kv_status calls_open(
    struct calls **out, const struct calls_config *config);
/* Calls that somebody holds stay. NULL is fine. */
void calls_close(struct calls *calls);

/* NULL: not remembered. The caller retains what it keeps. */
struct call *calls_find(struct calls *calls, const char *requested_by,
    const char *request_id, int64_t now_unix_ns);

/* A new call, which must not be there yet, with room for so many outcomes; the
 * caller has a reference. KV_NO_MEMORY. */
enum kv_status calls_begin(struct calls *calls, const char *requested_by,
    const char *request_id, const uint8_t digest[CALLS_DIGEST_BYTES],
    size_t n_outcomes, struct call **out);

/* It was answered so; outcomes are all of them, at most as many as there is
 * room for. receipts of the answer may be NULL. */
void calls_decide(struct calls *calls, struct call *call,
    const Kvpool__V1__EvictResponse *answer,
    const Kvpool__V1__EvictReceipts *receipts, int64_t now_unix_ns);

/* It came to nothing: as if it had never begun. Drops the reference. */
void calls_abandon(struct calls *calls, struct call *call);

/* A receipt of the ledger, at a start, in their order: all may be given, those
 * that matter are found quickly. KV_NO_MEMORY: a call would be lost. */
enum kv_status calls_add_receipt(struct calls *calls, uint64_t sequence,
    const unsigned char *bytes, size_t n_bytes);

void call_retain(struct call *call);
void call_release(struct call *call); /* NULL is fine */

/* The outcomes from `begin` on, at most n of them, in a message that has
 * nothing else; NULL: no memory. Freed as any unpacked message. */
Kvpool__V1__EvictResponse *call_page(
    const struct call *call, size_t begin, size_t n);

size_t calls_count(const struct calls *calls);
size_t calls_bytes(const struct calls *calls);

#endif
