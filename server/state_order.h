/* A page of sessions in an order that the pool does not keep: by age, size,
 * idle time or hits.
 *
 *   begin ──> [look]* ──> fill the page ──> fini
 *
 * All sessions are looked at for each page, some in each turn of the owner, and
 * the first of them that come after the page before are remembered by name. The
 * page is filled in the last turn: it is of that instant, in the order of that
 * instant; who went meanwhile is left out. So a session whose place does not
 * change is on exactly one page.
 *
 * Memory is that of the page; time is O(n log page_size).
 *
 * Thread: the pool's owner's. */
#ifndef SERVER_STATE_ORDER_H
#define SERVER_STATE_ORDER_H

#include "server/state.h"

struct state_order {
    struct server *server; /* borrowed, all three */
    const Kvpool__V1__SessionFilter *filter;
    const struct state_place *after; /* NULL: from the first */
    Kvpool__V1__SessionOrder order;
    uint32_t page_size;
    struct state_place at; /* the last one looked at */
    bool begun, more;
    struct state_place **heap; /* [n]: none comes after the first */
    struct state_place *places;
    size_t n;
};

/* KV_NO_MEMORY; state_order_fini in any case. */
enum kv_status state_order_begin(struct state_order *order);

/* Looks at sessions until the clock says end_ns. Whether it saw all. */
bool state_order_look(struct state_order *order, int64_t end_ns);

/* KV_NO_MEMORY; state_page_fini in any case. */
enum kv_status state_order_fill(
    struct state_order *order, struct state_page *page);
void state_order_fini(struct state_order *order);

#endif
