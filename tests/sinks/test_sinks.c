#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "base/log.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "pool/pool.h"
#include "sinks/sink.h"
#include "sinks/sink_channel.h"
#include "sinks/sink_log.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct ledger *ledger;
static struct sink_set *set;
static FILE *log_file;
static int n_closed;

static int64_t wall_ns(void)
{
    return 1;
}

static void set_up(void)
{
    const struct ledger_config config = {
        .ring_bytes = LEDGER_MIN_RING_BYTES, .epoch = 1, .wall_ns = wall_ns};

    faulty_heap_install();
    n_closed = 0;
    log_file = tmpfile();
    kv_log_set_fd(fileno(log_file));
    ck_assert_int_eq(ledger_open(&ledger, &config, NULL), KV_OK);
    ck_assert_int_eq(sink_set_open(&set, ledger), KV_OK);
}

static void on_closed(void *ctx)
{
    (void)ctx;
    n_closed++;
}

static void close_set(void)
{
    int n_before = n_closed;

    if (set != NULL) {
        sink_set_close(set, on_closed, NULL);
        if (n_closed == n_before)
            sink_set_give_up(set);
    }
    set = NULL;
}

static void tear_down(void)
{
    close_set();
    ledger_close(ledger);
    kv_log_set_fd(2);
    fclose(log_file);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* What was logged so far. */
static const char *logged(void)
{
    static char text[1 << 16];
    ssize_t n = pread(fileno(log_file), text, sizeof text - 1, 0);

    ck_assert_int_ge(n, 0);
    text[n] = '\0';
    return text;
}

static struct sink *add_channel(size_t capacity)
{
    static int n_channels;
    struct sink *sink;
    char name[32];

    snprintf(name, sizeof name, "channel-%d", ++n_channels);
    ck_assert_int_eq(sink_channel_open(&sink, name, capacity), KV_OK);
    ck_assert_int_eq(sink_set_add(set, sink, NULL), KV_OK);
    return sink;
}

static void issue(int n)
{
    for (int i = 0; i < n; i++)
        ledger_issue_drain(ledger, "a test", 1, 1);
}

/* The sequence of the next receipt in the channel, 0 if it is empty. */
static uint64_t take(struct sink *channel)
{
    Kvpool__V1__Receipt *receipt = sink_channel_take(channel);
    uint64_t sequence = receipt != NULL ? receipt->sequence : 0;

    if (receipt != NULL)
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return sequence;
}

START_TEST(a_sink_gets_what_was_there_before_it_and_all_that_follows)
{
    struct sink *channel;

    issue(3);
    channel = add_channel(100);
    issue(2);
    for (uint64_t sequence = 1; sequence <= 5; sequence++)
        ck_assert_uint_eq(take(channel), sequence);
    ck_assert_uint_eq(take(channel), 0);
    ck_assert_uint_eq(channel->delivered_total, 5);
    ck_assert_uint_eq(channel->lost_total, 0);
}
END_TEST

START_TEST(a_full_channel_waits_and_hurts_no_other)
{
    struct sink *small = add_channel(3), *large = add_channel(1000);

    issue(600);
    ck_assert_uint_eq(small->delivered_total, 3);
    ck_assert_uint_eq(large->delivered_total, 600);
    for (uint64_t sequence = 1; sequence <= 600; sequence++) {
        ck_assert_uint_eq(take(small), sequence);
        ck_assert_uint_eq(take(large), sequence);
    }
    ck_assert_uint_eq(take(small), 0);
    issue(1);
    ck_assert_uint_eq(take(small), 601);
}
END_TEST

START_TEST(what_left_the_ring_is_counted_and_logged_never_skipped_silently)
{
    struct sink *channel = add_channel(10);
    uint64_t oldest, last = 10, n_read = 10;
    char gap[64];

    issue(40000);
    oldest = ledger_position(ledger).oldest_sequence;
    ck_assert_uint_gt(oldest, 11);
    for (uint64_t sequence = 1; sequence <= 10; sequence++)
        ck_assert_uint_eq(take(channel), sequence);
    ck_assert_uint_eq(channel->lost_total, oldest - 11);
    for (uint64_t next; (next = take(channel)) != 0; last = next, n_read++)
        ck_assert_uint_eq(next, n_read == 10 ? oldest : last + 1);
    ck_assert_uint_eq(last, 40000);
    ck_assert_uint_eq(n_read + channel->lost_total, 40000);
    snprintf(gap, sizeof gap, "first_sequence=11 last_sequence=%d ",
        (int)oldest - 1);
    ck_assert_msg(strstr(logged(), gap) != NULL, "%s", logged());
    ck_assert_ptr_nonnull(strstr(logged(), "sink=channel-"));
}
END_TEST

START_TEST(closing_offers_the_rest_and_tells_what_was_not_taken)
{
    add_channel(5);
    add_channel(50);
    issue(20);
    close_set();
    ck_assert_int_eq(n_closed, 1);
    ck_assert_ptr_nonnull(
        strstr(logged(), "first_sequence=6 last_sequence=20 lost_total=15"));
    ck_assert_ptr_eq(strstr(strstr(logged(), "lost_total") + 1, "lost_total"),
        NULL); /* the other lost nothing */
}
END_TEST

START_TEST(closing_an_empty_set_calls_back_too)
{
    close_set();
    ck_assert_int_eq(n_closed, 1);
}
END_TEST

/* A sink that refuses for want of memory, and closes later. */
struct moody_sink {
    struct sink sink;
    uint64_t last_sequence;
    bool refuses;
    bool flushed;
    sink_closed_cb closed;
    void *ctx;
};

static enum kv_status moody_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct moody_sink *moody = (struct moody_sink *)(void *)sink;

    ck_assert_uint_eq(run->first_sequence, moody->last_sequence + 1);
    *n_taken = moody->refuses ? run->n_receipts / 2 : run->n_receipts;
    moody->last_sequence += *n_taken;
    return moody->refuses ? KV_NO_MEMORY : KV_OK;
}

static void moody_flush(struct sink *sink)
{
    ((struct moody_sink *)(void *)sink)->flushed = true;
}

static void moody_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    struct moody_sink *moody = (struct moody_sink *)(void *)sink;

    moody->closed = closed;
    moody->ctx = ctx;
}

static const struct sink_ops moody_ops = {.kind = "moody",
    .offer = moody_offer,
    .flush = moody_flush,
    .close = moody_close};

static int n_moody;

static struct moody_sink *add_moody(void)
{
    struct moody_sink *moody = kv_calloc(1, sizeof *moody);

    moody->sink.ops = &moody_ops;
    snprintf(moody->sink.name, sizeof moody->sink.name, "moody-%d", n_moody++);
    ck_assert_int_eq(sink_set_add(set, &moody->sink, NULL), KV_OK);
    return moody;
}

START_TEST(a_sink_without_memory_is_offered_the_rest_with_what_comes_next)
{
    struct moody_sink *moody;

    issue(9);
    moody = kv_calloc(1, sizeof *moody);
    moody->refuses = true;
    moody->sink.ops = &moody_ops;
    snprintf(moody->sink.name, sizeof moody->sink.name, "moody-%d", n_moody++);
    ck_assert_int_eq(sink_set_add(set, &moody->sink, NULL), KV_OK);
    ck_assert_uint_eq(moody->last_sequence, 4);
    moody->refuses = false;
    issue(1);
    ck_assert_uint_eq(moody->last_sequence, 10);
    close_set();
    moody->closed(&moody->sink, moody->ctx);
}
END_TEST

START_TEST(the_set_is_closed_once_its_last_sink_is)
{
    struct moody_sink *first = add_moody(), *second = add_moody();

    add_channel(5);
    issue(2);
    close_set();
    ck_assert_int_eq(n_closed, 0);
    ck_assert(first->flushed && second->flushed);
    issue(1); /* nobody listens any more */
    ck_assert_uint_eq(first->last_sequence, 2);
    second->closed(&second->sink, second->ctx);
    ck_assert_int_eq(n_closed, 0);
    first->closed(&first->sink, first->ctx);
    ck_assert_int_eq(n_closed, 1);
}
END_TEST

START_TEST(opens_give_everything_back_when_memory_runs_out)
{
    struct sink_set *other = NULL;
    struct sink *sink = NULL;
    int before = faulty_heap_live();
    int nth;

    faulty_heap_fail_at(0);
    ck_assert_int_eq(sink_set_open(&other, ledger), KV_NO_MEMORY);
    ck_assert_int_eq(sink_log_open(&sink, "log"), KV_NO_MEMORY);
    for (nth = 0; sink_channel_open(&sink, "channel", 5) == KV_NO_MEMORY;) {
        ck_assert_ptr_null(sink);
        ck_assert_int_eq(faulty_heap_live(), before);
        faulty_heap_fail_at(++nth);
    }
    ck_assert_int_eq(nth, 2);
    faulty_heap_fail_at(-1);
    ck_assert_int_eq(sink_set_add(set, sink, NULL), KV_OK);
}
END_TEST

/* ---- guaranteed sinks */

/* Takes everything, and acknowledges when the test says so. */
struct slow_sink {
    struct sink sink;
    uint64_t last_sequence; /* taken */
    bool is_dead;           /* takes nothing */
};

static enum kv_status slow_offer(
    struct sink *sink, const struct feed_run *run, uint32_t *n_taken)
{
    struct slow_sink *slow = (struct slow_sink *)(void *)sink;

    *n_taken = slow->is_dead ? 0 : run->n_receipts;
    if (slow->is_dead)
        return KV_BUSY;
    slow->last_sequence = run->first_sequence + run->n_receipts - 1;
    return KV_OK;
}

static void slow_close(struct sink *sink, sink_closed_cb closed, void *ctx)
{
    closed(sink, ctx);
}

static const struct sink_ops slow_ops = {.kind = "slow",
    .guaranteed = true,
    .offer = slow_offer,
    .close = slow_close};

static struct slow_sink *new_slow(const char *name)
{
    struct slow_sink *slow = kv_calloc(1, sizeof *slow);

    slow->sink.ops = &slow_ops;
    snprintf(slow->sink.name, sizeof slow->sink.name, "%s", name);
    return slow;
}

static struct slow_sink *add_slow(const char *name)
{
    struct slow_sink *slow = new_slow(name);

    ck_assert_int_eq(sink_set_add(set, &slow->sink, NULL), KV_OK);
    return slow;
}

START_TEST(a_dead_sink_holds_back_nobody)
{
    struct slow_sink *dead = new_slow("dead"), *well;
    struct sink *channel = add_channel(2000);

    dead->is_dead = true;
    ck_assert_int_eq(sink_set_add(set, &dead->sink, NULL), KV_OK);
    well = add_slow("well");
    for (uint64_t n = 1; n <= 1000; n++) {
        issue(1);
        sink_failed(&dead->sink, "nobody answers");
        ck_assert_uint_eq(well->last_sequence, n);
        sink_acknowledge(&well->sink, n);
        ck_assert_uint_eq(take(channel), n);
    }
    ck_assert_int_eq(dead->sink.state, SINK_RETRYING);
    ck_assert_int_eq(well->sink.state, SINK_RUNNING);
    ck_assert_uint_eq(sink_lag(&dead->sink, 1).n_receipts, 1000);
    ck_assert_uint_eq(sink_lag(&well->sink, 1).n_receipts, 0);
    ck_assert_uint_eq(dead->sink.delivered_total, 0);
    ck_assert_uint_eq(dead->sink.retries_total, 1000);
    dead->is_dead = false;
    sink_ready(&dead->sink);
    ck_assert_uint_eq(dead->last_sequence, 1000);
}
END_TEST

START_TEST(a_guaranteed_sink_resumes_behind_its_acknowledged_position)
{
    struct slow_sink *slow = add_slow("slow"), *other = add_slow("other");

    issue(10);
    sink_acknowledge(&slow->sink, 7);
    sink_set_remove(set, &slow->sink, false);
    issue(3);
    slow = new_slow("slow");
    slow->is_dead = true;
    ck_assert_int_eq(sink_set_add(set, &slow->sink, NULL), KV_OK);
    ck_assert_uint_eq(slow->sink.acknowledged_sequence, 7);
    ck_assert_uint_eq(slow->sink.cursor.sequence, 7);
    sink_set_remove(set, &slow->sink, true); /* forgotten */
    slow = new_slow("slow");
    slow->is_dead = true;
    ck_assert_int_eq(sink_set_add(set, &slow->sink, NULL), KV_OK);
    ck_assert_uint_eq(slow->sink.cursor.sequence, 0);
    ck_assert_uint_eq(other->last_sequence, 13);
    ck_assert_uint_eq(other->sink.lost_total, 0);
}
END_TEST

START_TEST(what_delivers_takes_the_rest_before_it_is_closed)
{
    struct slow_sink *slow = add_slow("slow"), *dead = new_slow("dead");

    dead->is_dead = true;
    ck_assert_int_eq(sink_set_add(set, &dead->sink, NULL), KV_OK);
    issue(10);
    slow->is_dead = true;
    issue(10);
    sink_set_close(set, on_closed, NULL);
    sink_set_tick(set, 1);
    ck_assert_int_eq(slow->sink.state, SINK_RUNNING);
    slow->is_dead = false;
    sink_ready(&slow->sink);
    ck_assert_uint_eq(slow->last_sequence, 20);
    sink_set_tick(set, 2); /* closes it */
    ck_assert_ptr_eq(sink_set_first(set), &dead->sink);
    ck_assert_int_eq(n_closed, 0);
    for (int i = 0; i < 2; i++)
        sink_set_tick(set, 3);
    ck_assert_int_eq(n_closed, 0);
    sink_set_tick(set, 4); /* the fifth: no more time for the dead one */
    ck_assert_int_eq(n_closed, 1);
    set = NULL;
}
END_TEST

START_TEST(names_are_unique_until_the_old_one_is_closed)
{
    struct moody_sink *moody = add_moody();
    struct slow_sink *slow = new_slow(moody->sink.name);
    struct kv_error error;

    ck_assert_int_eq(sink_set_add(set, &slow->sink, &error), KV_INVALID);
    sink_set_remove(set, &moody->sink, true);
    ck_assert_int_eq(moody->sink.state, SINK_STOPPING);
    ck_assert_int_eq(sink_set_add(set, &slow->sink, &error), KV_INVALID);
    ck_assert_ptr_eq(sink_set_first(set), &moody->sink);
    moody->closed(&moody->sink, moody->ctx);
    ck_assert_int_eq(sink_set_add(set, &slow->sink, &error), KV_OK);
    ck_assert_ptr_eq(sink_set_first(set), &slow->sink);
    ck_assert_ptr_null(sink_set_next(set, &slow->sink));
}
END_TEST

START_TEST(there_are_as_many_sinks_as_the_journal_has_positions)
{
    struct slow_sink *more = new_slow("more");
    struct kv_error error;
    char name[16];

    for (int i = 0; i < SINK_MAX_SINKS; i++) {
        snprintf(name, sizeof name, "s%d", i);
        add_slow(name);
    }
    ck_assert_int_eq(sink_set_add(set, &more->sink, &error), KV_LIMIT);
    kv_free(more);
}
END_TEST

static uint64_t last_drain(struct sink *channel, uint64_t *gap_first,
    uint64_t *gap_last, const char *sink)
{
    Kvpool__V1__Receipt *receipt;
    uint64_t last = 0;

    *gap_first = *gap_last = 0;
    while ((receipt = sink_channel_take(channel)) != NULL) {
        if (receipt->lifecycle->change_case ==
            KVPOOL__V1__LIFECYCLE_RECEIPT__CHANGE_SINK_GAP) {
            ck_assert_str_eq(receipt->lifecycle->sink_gap->sink, sink);
            *gap_first = receipt->lifecycle->sink_gap->first_sequence;
            *gap_last = receipt->lifecycle->sink_gap->last_sequence;
        }
        last = receipt->sequence;
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    return last;
}

START_TEST(a_gap_of_a_guaranteed_sink_becomes_a_receipt)
{
    struct slow_sink *slow = add_slow("audit");
    uint64_t first, last, oldest;
    struct sink *channel;

    issue(5);
    sink_acknowledge(&slow->sink, 5);
    slow->is_dead = true;
    issue(40000);
    oldest = ledger_position(ledger).oldest_sequence;
    ck_assert_uint_gt(oldest, 6);
    channel = add_channel(50000);
    slow->is_dead = false;
    sink_ready(&slow->sink);
    ck_assert_uint_eq(slow->last_sequence, 5); /* held until it is told */
    ck_assert_uint_eq(slow->sink.lost_total, oldest - 6);
    sink_set_tick(set, 7);
    ck_assert_uint_eq(slow->last_sequence, 40006); /* the gap's own too */
    ck_assert_uint_eq(slow->sink.acknowledged_sequence, oldest - 1);
    ck_assert_uint_eq(last_drain(channel, &first, &last, "audit"), 40006);
    ck_assert_uint_eq(first, 6);
    ck_assert_uint_eq(last, oldest - 1);
    sink_acknowledge(&slow->sink, 40006);
    ck_assert_uint_eq(
        slow->sink.delivered_total + slow->sink.lost_total, 40006);
    sink_set_tick(set, 8);
    ck_assert_uint_eq(ledger_position(ledger).applied_sequence, 40006);
}
END_TEST

/* What was taken before the gap is acknowledged after it. */
START_TEST(what_is_in_flight_at_a_gap_is_counted_right)
{
    struct slow_sink *slow = add_slow("audit");
    uint64_t oldest;

    issue(5);
    slow->is_dead = true;
    issue(40000);
    oldest = ledger_position(ledger).oldest_sequence;
    slow->is_dead = false;
    sink_ready(&slow->sink);
    sink_set_tick(set, 7);
    ck_assert_uint_eq(slow->sink.acknowledged_sequence, 0);
    sink_acknowledge(&slow->sink, 3);
    ck_assert_uint_eq(slow->sink.delivered_total, 3);
    sink_acknowledge(&slow->sink, 5);
    sink_acknowledge(&slow->sink, oldest);
    ck_assert_uint_eq(slow->sink.delivered_total, 6);
    sink_acknowledge(&slow->sink, 40006);
    ck_assert_uint_eq(
        slow->sink.delivered_total + slow->sink.lost_total, 40006);
}
END_TEST

START_TEST(the_age_of_the_oldest_is_known_from_the_next_tick)
{
    struct slow_sink *slow = add_slow("audit");

    issue(5);
    sink_set_tick(set, 7);
    ck_assert_int_eq(sink_lag(&slow->sink, 101).ns, 100); /* wall_ns is 1 */
    ck_assert_uint_eq(sink_lag(&slow->sink, 101).n_receipts, 5);
    sink_acknowledge(&slow->sink, 5);
    ck_assert_int_eq(sink_lag(&slow->sink, 101).ns, 0);
    issue(1);
    sink_set_tick(set, 8);
    ck_assert_int_eq(sink_lag(&slow->sink, 11).ns, 10);
}
END_TEST

START_TEST(a_failure_is_logged_once_and_so_is_its_end)
{
    struct slow_sink *slow = add_slow("audit");
    const char *first;

    issue(1);
    sink_failed(&slow->sink, "no answer for %d s", 3);
    sink_failed(&slow->sink, "no answer for %d s", 4);
    first = strstr(logged(), "a sink does not deliver");
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_null(strstr(first + 1, "a sink does not deliver"));
    ck_assert_str_eq(slow->sink.last_error, "no answer for 4 s");
    ck_assert_int_gt(slow->sink.last_error_unix_ns, 0);
    ck_assert_ptr_null(strstr(logged(), "delivers again"));
    sink_acknowledge(&slow->sink, 1);
    ck_assert_int_eq(slow->sink.state, SINK_RUNNING);
    ck_assert_ptr_nonnull(strstr(logged(), "delivers again"));
}
END_TEST

START_TEST(pauses_double_up_to_a_limit_less_a_random_half)
{
    bool differ = false;

    for (uint32_t n = 1; n < 200; n++) {
        uint64_t most = n < 9 ? UINT64_C(100) << (n - 1) : 20000;
        uint64_t ms = sink_backoff_ms(n, 100, 20000);

        if (most > 20000)
            most = 20000;
        ck_assert_uint_le(ms, most);
        ck_assert_uint_ge(ms, most - most / 2);
        differ |= ms != sink_backoff_ms(n, 100, 20000);
    }
    ck_assert(differ);
    ck_assert_uint_eq(sink_backoff_ms(1, 0, 0), 0);
    ck_assert_uint_ge(sink_backoff_ms(UINT32_MAX, 1, UINT64_MAX), 1);
}
END_TEST

START_TEST(a_key_names_ledger_epoch_and_sequence)
{
    const uint8_t pool_id[16] = {0x01, 0xab, [15] = 0xff};

    ck_assert_str_eq(sink_receipt_key(pool_id, 3, 1041).s,
        "01ab00000000000000000000000000ff/3/1041");
    ck_assert_str_eq(sink_receipt_key(pool_id, UINT32_MAX, UINT64_MAX).s,
        "01ab00000000000000000000000000ff/4294967295/18446744073709551615");
}
END_TEST

/* ---- with a real pool, as in the original */

static struct pool *open_pool(const struct pool_observer *observer)
{
    const struct pool_config config = {
        .block_bytes = 1 << 19,
        .n_blocks = 8,
        .block_tokens = 16,
        .max_sessions = 8,
        .max_kept_tokens = 1000,
        .observer = observer,
    };
    struct pool *pool;

    ck_assert_int_eq(pool_open(&pool, &config, 0, NULL), KV_OK);
    return pool;
}

static struct pool_session *hold_blocks(
    struct pool *pool, const char *id, size_t n_tokens)
{
    const struct pool_key key = {"acme", 4, id, strlen(id)};
    const uint32_t tokens[64] = {1};
    struct pool_session *session;
    bool created;

    ck_assert_int_eq(
        pool_session_get(pool, &key, NULL, 1, &session, &created), KV_OK);
    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    ck_assert_int_eq(
        pool_session_append(pool, session, tokens, n_tokens), KV_OK);
    ck_assert_int_eq(
        pool_session_reserve(pool, session, n_tokens, NULL, 1), KV_OK);
    pool_session_commit(pool, session, n_tokens);
    pool_session_end(pool, session, 1);
    return session;
}

static void evict_by_hand(struct pool *pool, struct pool_session *session)
{
    const struct pool_cause cause = {
        .reason = POOL_REASON_MANUAL, .requested_by = "anonymous"};
    struct pool_batch_scope scope = pool_batch_begin(pool, 5);

    ck_assert_int_eq(pool_evict_session(pool, session, &cause, false, 5).result,
        POOL_EVICTED);
    pool_batch_end(pool, &scope, &cause, 5);
}

static void zero_all(struct pool *pool)
{
    struct pool_scrub job;

    while (pool_scrub_next(pool, &job)) {
        for (size_t i = 0; i < job.n_extents; i++)
            memset(pool_arena(pool) + job.extents[i].offset, 0,
                job.extents[i].size);
        pool_scrub_done(pool, job.scrub_id, 6);
    }
}

START_TEST(emits_eviction_receipt_with_correct_payload)
{
    struct pool *pool = open_pool(ledger_observer(ledger));
    struct sink *channel = add_channel(10);
    Kvpool__V1__EvictionReceipt *eviction;
    Kvpool__V1__Receipt *receipt;
    struct pool_session *session;

    hold_blocks(pool, "chat-6", 16);
    session = hold_blocks(pool, "chat-7", 40);
    evict_by_hand(pool, session);
    ck_assert_ptr_null(sink_channel_take(channel)); /* not zeroed yet */
    zero_all(pool);

    receipt = sink_channel_take(channel);
    ck_assert_ptr_nonnull(receipt);
    ck_assert_uint_eq(receipt->sequence, 1);
    ck_assert_int_eq(receipt->kind_case, KVPOOL__V1__RECEIPT__KIND_EVICTION);
    eviction = receipt->eviction;
    ck_assert_str_eq(eviction->session_id, "chat-7");
    ck_assert_str_eq(eviction->tenant, "acme");
    ck_assert_int_eq(eviction->reason, 1);
    ck_assert_str_eq(eviction->requested_by, "anonymous");
    ck_assert_uint_eq(eviction->block_size_bytes, 3 << 19);
    ck_assert_uint_eq(eviction->block_offset, eviction->extents[0]->offset);
    ck_assert_uint_eq(eviction->blocks_freed, 3);
    ck_assert_uint_eq(eviction->tokens_freed, 40);
    ck_assert_uint_eq(eviction->before->total_sessions, 2);
    ck_assert_uint_eq(eviction->after->total_sessions, 1);
    ck_assert_uint_eq(eviction->before->used_memory_bytes, 4 << 19);
    ck_assert_uint_eq(eviction->after->used_memory_bytes, 1 << 19);
    ck_assert(eviction->zeroed);
    ck_assert_ptr_null(eviction->performance);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);

    receipt = sink_channel_take(channel);
    ck_assert_uint_eq(receipt->eviction_batch->count, 1);
    ck_assert_uint_eq(receipt->eviction_batch->first_sequence, 1);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    ck_assert_ptr_null(sink_channel_take(channel));
    pool_close(pool);
}
END_TEST

/* `enable_receipts` is false by giving the pool no observer. */
START_TEST(does_not_emit_receipt_when_disabled)
{
    struct pool *pool = open_pool(NULL);
    struct sink *channel = add_channel(10);
    struct sink *log;

    ck_assert_int_eq(sink_log_open(&log, "log"), KV_OK);
    ck_assert_int_eq(sink_set_add(set, log, NULL), KV_OK);
    evict_by_hand(pool, hold_blocks(pool, "chat-7", 40));
    zero_all(pool);
    ck_assert_uint_eq(pool_stats(pool).evictions, 1);
    ck_assert_ptr_null(sink_channel_take(channel));
    ck_assert_uint_eq(ledger_position(ledger).applied_sequence, 0);
    ck_assert_str_eq(logged(), "");
    pool_close(pool);
}
END_TEST

START_TEST(the_log_has_the_fields_of_the_original)
{
    struct pool *pool = open_pool(ledger_observer(ledger));
    const struct ledger_boot boot = {.total_blocks = 8, .block_bytes = 1 << 19};
    const struct ledger_pool_snapshot snapshot = {.stats.total_bytes = 8};
    struct sink *log;

    ck_assert_int_eq(sink_log_open(&log, "log"), KV_OK);
    ck_assert_int_eq(sink_set_add(set, log, NULL), KV_OK);
    ledger_issue_boot(ledger, &boot, 0);
    evict_by_hand(pool, hold_blocks(pool, "chat 7", 40));
    zero_all(pool);
    ledger_issue_snapshot(ledger, &snapshot, 9);
    ledger_issue_sink_gap(ledger, "elsewhere", 1, 2, 9);
    ck_assert_msg(
        strstr(logged(),
            "level=info target=kvpool::kv::receipts "
            "msg=\"KV eviction recorded\" kv_event=eviction "
            "session_id=\"chat 7\" block_offset=0 block_size_bytes=1572864 "
            "before_sessions=1 after_sessions=0 before_mem_mb=1.5 "
            "after_mem_mb=0 has_perf=false reason=Manual sequence=2\n") != NULL,
        "%s", logged());
    ck_assert_ptr_nonnull(strstr(logged(), "kv_event=lifecycle change=boot"));
    ck_assert_ptr_nonnull(strstr(logged(),
        "kv_event=eviction_batch count=1 total_bytes_freed=1572864 "));
    ck_assert_ptr_nonnull(strstr(logged(), "kv_event=pool_snapshot "));
    ck_assert_ptr_nonnull(strstr(logged(), "change=sink_gap"));
    pool_close(pool);
}
END_TEST

/* The log's line of one receipt, whatever ledger it is from. */
static void log_one(Kvpool__V1__Receipt *receipt)
{
    Kvpool__V1__StreamReceiptsResponse message =
        KVPOOL__V1__STREAM_RECEIPTS_RESPONSE__INIT;
    unsigned char bytes[1024];
    struct feed_run run = {
        .bytes = bytes, .first_sequence = receipt->sequence, .n_receipts = 1};
    uint32_t n_taken = 0;
    struct sink *log;

    message.n_receipts = 1;
    message.receipts = &receipt;
    run.n_bytes = kvpool__v1__stream_receipts_response__pack(&message, bytes);
    ck_assert_int_eq(sink_log_open(&log, "log"), KV_OK);
    ck_assert_int_eq(log->ops->offer(log, &run, &n_taken), KV_OK);
    ck_assert_uint_eq(n_taken, 1);
    kv_free(log);
}

START_TEST(the_log_names_every_kind)
{
    Kvpool__V1__PoolStatistics stats = KVPOOL__V1__POOL_STATISTICS__INIT;
    Kvpool__V1__AllocationReceipt allocation =
        KVPOOL__V1__ALLOCATION_RECEIPT__INIT;
    Kvpool__V1__ReleaseReceipt release = KVPOOL__V1__RELEASE_RECEIPT__INIT;
    Kvpool__V1__RecomputationReceipt again =
        KVPOOL__V1__RECOMPUTATION_RECEIPT__INIT;
    Kvpool__V1__Receipt receipt = KVPOOL__V1__RECEIPT__INIT;

    receipt.sequence = 9;
    stats.used_memory_bytes = 1 << 20;
    allocation.session_id = release.session_id = again.session_id = (char *)"s";
    allocation.before = allocation.after = &stats;
    release.before = release.after = &stats;
    again.reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_LRU;
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_ALLOCATION;
    receipt.allocation = &allocation;
    log_one(&receipt);
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_RELEASE;
    receipt.release = &release;
    log_one(&receipt);
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION;
    receipt.recomputation = &again;
    log_one(&receipt);
    receipt.kind_case = KVPOOL__V1__RECEIPT__KIND__NOT_SET;
    log_one(&receipt);
    ck_assert_ptr_nonnull(strstr(logged(),
        "kv_event=allocation session_id=s before_mem_mb=1 after_mem_mb=1 "
        "sequence=9\n"));
    ck_assert_ptr_nonnull(strstr(logged(), "kv_event=release session_id=s "));
    ck_assert_ptr_nonnull(strstr(logged(),
        "kv_event=recomputation session_id=s eviction_sequence=0 reason=Lru "));
    ck_assert_ptr_nonnull(strstr(logged(), "kv_event=unknown sequence=9\n"));
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_sink_gets_what_was_there_before_it_and_all_that_follows,
        a_full_channel_waits_and_hurts_no_other,
        what_left_the_ring_is_counted_and_logged_never_skipped_silently,
        closing_offers_the_rest_and_tells_what_was_not_taken,
        closing_an_empty_set_calls_back_too,
        a_sink_without_memory_is_offered_the_rest_with_what_comes_next,
        the_set_is_closed_once_its_last_sink_is,
        opens_give_everything_back_when_memory_runs_out,
        a_dead_sink_holds_back_nobody,
        a_guaranteed_sink_resumes_behind_its_acknowledged_position,
        what_delivers_takes_the_rest_before_it_is_closed,
        names_are_unique_until_the_old_one_is_closed,
        there_are_as_many_sinks_as_the_journal_has_positions,
        a_gap_of_a_guaranteed_sink_becomes_a_receipt,
        what_is_in_flight_at_a_gap_is_counted_right,
        the_age_of_the_oldest_is_known_from_the_next_tick,
        a_failure_is_logged_once_and_so_is_its_end,
        pauses_double_up_to_a_limit_less_a_random_half,
        a_key_names_ledger_epoch_and_sequence,
        emits_eviction_receipt_with_correct_payload,
        does_not_emit_receipt_when_disabled,
        the_log_names_every_kind,
        the_log_has_the_fields_of_the_original,
    };

    return CHECK_RUN("sinks", set_up, tear_down, tests);
}
