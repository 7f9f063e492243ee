#include "server/state_order.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"

enum kv_status state_order_begin(struct state_order *order)
{
    order->heap = kv_calloc(order->page_size, sizeof *order->heap);
    order->places = kv_calloc(order->page_size, sizeof *order->places);
    return order->heap == NULL || order->places == NULL ? KV_NO_MEMORY : KV_OK;
}

void state_order_fini(struct state_order *order)
{
    kv_free(order->heap);
    kv_free(order->places);
}

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t n = n_a < n_b ? n_a : n_b;
    int order = n > 0 ? memcmp(a, b, n) : 0;

    return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

static int compare(uint64_t rank, const struct pool_key *a, uint64_t other,
    const struct pool_key *b)
{
    int order;

    if (rank != other)
        return rank < other ? -1 : 1;
    order =
        compare_bytes(a->tenant, a->tenant_bytes, b->tenant, b->tenant_bytes);
    return order != 0 ? order
                      : compare_bytes(a->id, a->id_bytes, b->id, b->id_bytes);
}

static int compare_places(
    const struct state_place *a, const struct state_place *b)
{
    return compare(a->rank, &a->key, b->rank, &b->key);
}

/* ---- the first page_size of those seen */

static void swap(struct state_order *order, size_t i, size_t j)
{
    struct state_place *place = order->heap[i];

    order->heap[i] = order->heap[j];
    order->heap[j] = place;
}

static void rise(struct state_order *order, size_t i)
{
    while (
        i > 0 && compare_places(order->heap[i], order->heap[(i - 1) / 2]) > 0) {
        swap(order, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
}

static void sink(struct state_order *order)
{
    size_t i = 0;

    for (;;) {
        size_t last = i;

        for (size_t j = 2 * i + 1; j <= 2 * i + 2 && j < order->n; j++)
            if (compare_places(order->heap[j], order->heap[last]) > 0)
                last = j;
        if (last == i)
            return;
        swap(order, i, last);
        i = last;
    }
}

static void consider(
    struct state_order *order, uint64_t rank, const struct pool_key *key)
{
    struct state_place *place;

    if (order->after != NULL &&
        compare(rank, key, order->after->rank, &order->after->key) <= 0)
        return;
    if (order->n < order->page_size) {
        place = order->heap[order->n] = &order->places[order->n];
        state_place_copy(place, key);
        place->rank = rank;
        rise(order, order->n++);
        return;
    }
    order->more = true;
    place = order->heap[0];
    if (compare(rank, key, place->rank, &place->key) >= 0)
        return;
    state_place_copy(place, key);
    place->rank = rank;
    sink(order);
}

bool state_order_look(struct state_order *order, int64_t end_ns)
{
    struct pool *pool = order->server->pool;
    int64_t now_ns = kv_clock_mono_ns();

    do {
        struct pool_session *session =
            pool_session_after(pool, order->begun ? &order->at.key : NULL);
        struct pool_session_info info;

        if (session == NULL)
            return true;
        info = pool_session_glance(session);
        state_place_copy(&order->at, &info.key);
        order->begun = true;
        if (state_matches(pool, &info, order->filter, now_ns))
            consider(order, state_rank(&info, order->order), &info.key);
        now_ns = kv_clock_mono_ns();
    } while (now_ns < end_ns);
    return false;
}

/* ---- the page */

static int compare_for_sort(const void *a, const void *b)
{
    return compare_places(*(const struct state_place *const *)a,
        *(const struct state_place *const *)b);
}

/* Who is still there, with the rank of now; the others go to the end. */
static size_t look_again(struct state_order *order, int64_t now_ns)
{
    size_t n = 0;

    for (size_t i = 0; i < order->n; i++) {
        struct pool_session *session =
            pool_session_find(order->server->pool, &order->heap[i]->key);
        struct pool_session_info info;

        if (session == NULL)
            continue;
        info = pool_session_glance(session);
        if (!state_matches(order->server->pool, &info, order->filter, now_ns))
            continue;
        order->heap[i]->rank = state_rank(&info, order->order);
        swap(order, i, n++);
    }
    return n;
}

enum kv_status state_order_fill(
    struct state_order *order, struct state_page *page)
{
    int64_t mono_ns = kv_clock_mono_ns(), wall_ns = kv_clock_wall_ns();
    struct pool *pool = order->server->pool;

    memset(page, 0, sizeof *page);
    page->entries = kv_calloc(order->page_size, sizeof *page->entries);
    page->list = kv_calloc(order->page_size, sizeof *page->list);
    if (page->entries == NULL || page->list == NULL)
        return KV_NO_MEMORY;
    /* The next page begins behind what was chosen, wherever it is now. */
    if (order->more)
        state_token_print(order->server, order->filter, order->order,
            order->heap[0], page->next_token);
    page->n = look_again(order, mono_ns);
    if (page->n > 0)
        qsort(order->heap, page->n, sizeof *order->heap, compare_for_sort);
    for (size_t i = 0; i < page->n; i++) {
        state_session_fill(&page->entries[i], pool,
            pool_session_find(pool, &order->heap[i]->key), mono_ns, wall_ns);
        page->list[i] = &page->entries[i].session;
    }
    return KV_OK;
}
