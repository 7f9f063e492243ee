/* Sessions page by page, and the tokens that lead from one to the next. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "server/state.h"
#include "server/state_order.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define KEY KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_KEY

static struct server server;
static struct pool *pool;

static void set_up(void)
{
    const struct pool_config config = {
        .block_bytes = 64,
        .n_blocks = 512,
        .block_tokens = 4,
        .max_sessions = 60000,
        .max_kept_tokens = 100000,
    };
    struct kv_error error;

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    ck_assert_int_eq(
        pool_open(&pool, &config, kv_clock_mono_ns(), &error), KV_OK);
    server = (struct server){.pool = pool, .secret = {0x0123456789abcdef, 42}};
}

static void tear_down(void)
{
    pool_close(pool);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static struct pool_key key_of(const char *tenant, const char *id)
{
    return (struct pool_key){.tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .id = id,
        .id_bytes = strlen(id)};
}

static struct pool_session *add(const char *tenant, const char *id)
{
    const struct pool_key key = key_of(tenant, id);
    struct pool_session *session;
    bool created;

    ck_assert_int_eq(pool_session_get(pool, &key, NULL, kv_clock_mono_ns(),
                         &session, &created),
        KV_OK);
    ck_assert(created);
    return session;
}

static struct state_place place;

/* The next page after the token ("": the first); how many are on it. */
static size_t turn(const Kvpool__V1__SessionFilter *filter, uint32_t page_size,
    char token[640], void (*look)(const struct state_session *entry))
{
    struct state_page page;
    size_t n;

    if (token[0] != '\0')
        ck_assert(state_place_parse(&server, token, filter, KEY, &place));
    ck_assert_int_eq(state_page_fill(&page, &server, filter, page_size,
                         token[0] != '\0' ? &place.key : NULL),
        KV_OK);
    for (size_t i = 0; i < page.n; i++)
        look(&page.entries[i]);
    snprintf(token, 640, "%s", page.next_token);
    n = page.n;
    state_page_fini(&page);
    return n;
}

static char last[2 * POOL_NAME_BYTES + 8];
static size_t n_seen;

/* Ascending, so each exactly once. The names have no byte below '!'. */
static void see(const struct state_session *entry)
{
    char name[sizeof last];

    snprintf(name, sizeof name, "%s %s", entry->tenant, entry->id);
    ck_assert_int_lt(strcmp(last, name), 0);
    snprintf(last, sizeof last, "%s", name);
    n_seen++;
}

static size_t count_all(
    const Kvpool__V1__SessionFilter *filter, uint32_t page_size)
{
    char token[640] = "";

    last[0] = '\0';
    n_seen = 0;
    do
        turn(filter, page_size, token, see);
    while (token[0] != '\0');
    return n_seen;
}

START_TEST(pages_of_any_size_have_every_session_once)
{
    char id[16];

    ck_assert_uint_eq(count_all(NULL, 10), 0);
    for (int i = 0; i < 101; i++) {
        snprintf(id, sizeof id, "s%d", i * 7919 % 101);
        add(i % 3 == 0 ? "" : i % 3 == 1 ? "b" : "bb", id);
    }
    for (uint32_t size = 1; size <= 110; size++)
        ck_assert_uint_eq(count_all(NULL, size), 101);
}
END_TEST

START_TEST(a_filter_lets_its_tenants_through)
{
    char *tenants[] = {(char *)"b", (char *)""};
    Kvpool__V1__SessionFilter filter = KVPOOL__V1__SESSION_FILTER__INIT;

    add("", "1");
    add("b", "2");
    add("b", "3");
    add("bb", "4");
    filter.tenants = tenants;
    filter.n_tenants = 1;
    ck_assert_uint_eq(count_all(&filter, 1), 2);
    filter.n_tenants = 2;
    ck_assert_uint_eq(count_all(&filter, 1), 3);
    filter.n_tenants = 0;
    ck_assert_uint_eq(count_all(&filter, 3), 4);
}
END_TEST

static void ignore(const struct state_session *entry)
{
    (void)entry;
}

START_TEST(a_token_changed_in_any_character_is_refused)
{
    static const char digits[] = "0123456789abcdefABCDEFgz -\xff";
    char token[640] = "", changed[642];
    size_t n;

    add("tenant", "one");
    add("tenant", "two");
    ck_assert_uint_eq(turn(NULL, 1, token, ignore), 1);
    n = strlen(token);
    ck_assert(state_place_parse(&server, token, NULL, KEY, &place));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sizeof digits - 1; j++) {
            if (digits[j] == token[i])
                continue;
            snprintf(changed, sizeof changed, "%s", token);
            changed[i] = digits[j];
            ck_assert(!state_place_parse(&server, changed, NULL, KEY, &place));
        }
    for (size_t i = 0; i < n; i++) {
        snprintf(changed, sizeof changed, "%.*s", (int)i, token);
        ck_assert(!state_place_parse(&server, changed, NULL, KEY, &place));
        ck_assert(
            !state_place_parse(&server, token + i + 1, NULL, KEY, &place));
    }
    snprintf(changed, sizeof changed, "%s0", token);
    ck_assert(!state_place_parse(&server, changed, NULL, KEY, &place));
    snprintf(changed, sizeof changed, "%s00", token);
    ck_assert(!state_place_parse(&server, changed, NULL, KEY, &place));
}
END_TEST

START_TEST(a_token_is_of_its_process_and_of_its_filter)
{
    char *tenants[] = {(char *)"a", (char *)"b"};
    Kvpool__V1__SessionFilter filter = KVPOOL__V1__SESSION_FILTER__INIT;
    char token[640] = "";

    add("a", "one");
    add("a", "two");
    filter.tenants = tenants;
    filter.n_tenants = 1;
    ck_assert_uint_eq(turn(&filter, 1, token, ignore), 1);
    ck_assert(state_place_parse(&server, token, &filter, KEY, &place));
    ck_assert(!state_place_parse(&server, token, NULL, KEY, &place));
    filter.n_tenants = 2;
    ck_assert(!state_place_parse(&server, token, &filter, KEY, &place));
    filter.n_tenants = 1;
    server.secret[1]++;
    ck_assert(!state_place_parse(&server, token, &filter, KEY, &place));
}
END_TEST

START_TEST(a_token_holds_the_longest_names)
{
    char tenant[POOL_NAME_BYTES + 1], id[POOL_NAME_BYTES + 1];
    char token[640] = "";

    memset(tenant, 't', POOL_NAME_BYTES);
    memset(id, 'i', POOL_NAME_BYTES);
    tenant[POOL_NAME_BYTES] = id[POOL_NAME_BYTES] = '\0';
    add(tenant, id);
    id[POOL_NAME_BYTES - 1] = 'j';
    add(tenant, id);
    ck_assert_uint_eq(turn(NULL, 1, token, ignore), 1);
    ck_assert_uint_eq(turn(NULL, 1, token, ignore), 1);
    ck_assert_str_eq(token, "");
}
END_TEST

/* Sessions come and go between the pages; those that stay appear once. */
START_TEST(what_comes_and_goes_between_pages_disturbs_nobody)
{
    char id[16], token[640] = "";
    size_t n_staying = 0;

    for (int i = 0; i < 200; i++) {
        snprintf(id, sizeof id, "s%03d", 2 * i);
        add("", id);
    }
    last[0] = '\0';
    n_seen = 0;
    for (int round = 0; round == 0 || token[0] != '\0'; round++) {
        struct pool_key gone;

        turn(NULL, 7, token, see);
        if (token[0] == '\0')
            break;
        /* The one that the token names goes: its place stays. */
        ck_assert(state_place_parse(&server, token, NULL, KEY, &place));
        gone = place.key;
        pool_session_forget(
            pool, pool_session_find(pool, &gone), kv_clock_mono_ns());
        n_staying++;
    }
    ck_assert_uint_eq(n_seen, 200);
    ck_assert_uint_gt(n_staying, 20);
}
END_TEST

START_TEST(a_page_looks_at_a_bounded_number_of_sessions)
{
    char *tenants[] = {(char *)"z"};
    Kvpool__V1__SessionFilter filter = KVPOOL__V1__SESSION_FILTER__INIT;
    char id[16], token[640] = "";
    int n_pages = 0;

    for (int i = 0; i < 50000; i++) {
        snprintf(id, sizeof id, "s%d", i);
        add("a", id);
    }
    add("z", "last");
    filter.tenants = tenants;
    filter.n_tenants = 1;
    last[0] = '\0';
    n_seen = 0;
    do
        turn(&filter, 100, token, see);
    while (n_pages++ < 10 && token[0] != '\0');
    ck_assert_uint_eq(n_seen, 1);
    ck_assert_int_ge(n_pages, 3); /* the first ones were empty */
}
END_TEST

START_TEST(idle_time_counts_from_the_end_of_the_last_run)
{
    struct pool_session *session = add("", "a");
    struct state_page page;
    const uint32_t token = 5;
    int64_t now = kv_clock_mono_ns();

    ck_assert_int_eq(pool_session_begin(pool, session), KV_OK);
    ck_assert_int_eq(pool_session_append(pool, session, &token, 1), KV_OK);
    ck_assert_int_eq(state_page_fill(&page, &server, NULL, 1, NULL), KV_OK);
    ck_assert_int_eq(page.entries[0].session.idle_ns, 0);
    ck_assert_int_eq(page.entries[0].session.state,
        KVPOOL__V1__SESSION_STATE__SESSION_STATE_RUNNING);
    state_page_fini(&page);
    pool_session_end(pool, session, now - 5 * KV_NS_PER_S);
    ck_assert_int_eq(state_page_fill(&page, &server, NULL, 1, NULL), KV_OK);
    ck_assert_int_ge(page.entries[0].session.idle_ns, 5 * KV_NS_PER_S);
    ck_assert_int_eq(page.entries[0].session.tokens, 1);
    state_page_fini(&page);
}
END_TEST

START_TEST(a_page_without_memory_is_refused_and_leaks_nothing)
{
    struct state_page page;
    int n_live;

    add("", "a");
    n_live = faulty_heap_live();
    for (int nth = 0; nth < 2; nth++) {
        faulty_heap_fail_at(nth);
        ck_assert_int_eq(
            state_page_fill(&page, &server, NULL, 10, NULL), KV_NO_MEMORY);
        faulty_heap_fail_at(-1);
        state_page_fini(&page);
        ck_assert_int_eq(faulty_heap_live(), n_live);
    }
}
END_TEST

/* ---- orders */

/* As many looks as it takes, each of which sees one session at least. */
static size_t turn_in_order(Kvpool__V1__SessionOrder order, uint32_t page_size,
    char token[640], void (*look)(const struct state_session *entry))
{
    struct state_order at = {
        .server = &server, .order = order, .page_size = page_size};
    struct state_page page;
    size_t n;

    if (token[0] != '\0') {
        ck_assert(state_place_parse(&server, token, NULL, order, &place));
        at.after = &place;
    }
    ck_assert_int_eq(state_order_begin(&at), KV_OK);
    while (!state_order_look(&at, 0))
        continue;
    ck_assert_int_eq(state_order_fill(&at, &page), KV_OK);
    for (size_t i = 0; i < page.n; i++)
        look(&page.entries[i]);
    snprintf(token, 640, "%s", page.next_token);
    n = page.n;
    state_page_fini(&page);
    state_order_fini(&at);
    return n;
}

static int64_t last_age, last_idle;
static char seen[128];

static void count(const struct state_session *entry)
{
    (void)entry;
    n_seen++;
}

static void see_by_age(const struct state_session *entry)
{
    int i = atoi(entry->id + 1);

    ck_assert_int_eq(seen[i], 0);
    seen[i] = 1;
    n_seen++;
    ck_assert_int_le(entry->session.age_ns, last_age);
    last_age = entry->session.age_ns;
}

static void see_idle(const struct state_session *entry)
{
    ck_assert_int_le(entry->session.idle_ns, last_idle);
    last_idle = entry->session.idle_ns;
    n_seen++;
}

START_TEST(pages_of_every_order_have_every_session_once)
{
    int64_t begin = kv_clock_mono_ns() - KV_NS_PER_S;
    char id[16], token[640];

    for (int i = 0; i < 101; i++) {
        struct pool_key key;
        struct pool_session *session;
        bool created;

        snprintf(id, sizeof id, "s%d", i * 37 % 101);
        key = key_of(i % 2 == 0 ? "" : "b", id);
        ck_assert_int_eq(pool_session_get(pool, &key, NULL,
                             begin + i / 3 * 1000, &session, &created),
            KV_OK);
    }
    for (int order = KEY + 1; order <= 5; order++)
        for (uint32_t size = 1; size <= 110; size += size / 3 + 1) {
            memset(seen, 0, sizeof seen);
            n_seen = 0;
            token[0] = '\0';
            do {
                last_age = last_idle = INT64_MAX;
                turn_in_order((Kvpool__V1__SessionOrder)order, size, token,
                    order == KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_IDLE
                        ? see_idle
                    : order == KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_AGE
                        ? see_by_age
                        : count);
            } while (token[0] != '\0');
            ck_assert_uint_eq(n_seen, 101);
        }
}
END_TEST

/* One that goes between is left out, and nobody else with it. */
START_TEST(who_goes_between_pages_of_an_order_disturbs_nobody)
{
    char id[16], token[640] = "";

    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof id, "s%03d", i);
        add("", id);
    }
    n_seen = 0;
    do {
        turn_in_order(
            KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_AGE, 7, token, count);
        if (token[0] == '\0')
            break;
        ck_assert(state_place_parse(&server, token, NULL,
            KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_AGE, &place));
        pool_session_forget(
            pool, pool_session_find(pool, &place.key), kv_clock_mono_ns());
    } while (true);
    ck_assert_uint_eq(n_seen, 100);
}
END_TEST

START_TEST(a_page_in_order_without_memory_leaks_nothing)
{
    int n_live;

    add("", "a");
    n_live = faulty_heap_live();
    for (int nth = 0; nth < 4; nth++) {
        struct state_order at = {.server = &server,
            .order = KVPOOL__V1__SESSION_ORDER__SESSION_ORDER_AGE,
            .page_size = 10};
        struct state_page page = {.n = 0};
        enum kv_status status;

        faulty_heap_fail_at(nth);
        status = state_order_begin(&at);
        if (status == KV_OK) {
            ck_assert(state_order_look(&at, INT64_MAX));
            status = state_order_fill(&at, &page);
        }
        ck_assert_int_eq(status, KV_NO_MEMORY);
        faulty_heap_fail_at(-1);
        state_page_fini(&page);
        state_order_fini(&at);
        ck_assert_int_eq(faulty_heap_live(), n_live);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        pages_of_any_size_have_every_session_once,
        a_filter_lets_its_tenants_through,
        a_token_changed_in_any_character_is_refused,
        a_token_is_of_its_process_and_of_its_filter,
        a_token_holds_the_longest_names,
        what_comes_and_goes_between_pages_disturbs_nobody,
        a_page_looks_at_a_bounded_number_of_sessions,
        idle_time_counts_from_the_end_of_the_last_run,
        a_page_without_memory_is_refused_and_leaks_nothing,
        pages_of_every_order_have_every_session_once,
        who_goes_between_pages_of_an_order_disturbs_nobody,
        a_page_in_order_without_memory_leaks_nothing,
    };

    return CHECK_RUN("state", set_up, tear_down, tests);
}
