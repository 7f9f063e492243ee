#include "sinks/outbox.h"

#include "base/heap.h"

struct outbox_run {
    struct outbox_run *next;
    struct feed_run run;
};

/* How much of the run fits: the same run, cut. */
static struct feed_run cut_run(const struct outbox *box,
    const struct feed_run *run, uint32_t max_receipts, size_t max_bytes)
{
    const unsigned char *at = run->bytes, *receipt;
    struct feed_run cut = *run;
    size_t n_bytes;

    cut.n_receipts = 0;
    cut.n_bytes = 0;
    while (box->n_receipts + cut.n_receipts < max_receipts &&
           feed_run_entry(run, &at, &receipt, &n_bytes)) {
        size_t n_cut = (size_t)(at - run->bytes);

        if (box->n_receipts + cut.n_receipts > 0 &&
            box->n_bytes + n_cut > max_bytes)
            break;
        cut.n_receipts++;
        cut.n_bytes = n_cut;
    }
    return cut;
}

enum kv_status outbox_take(struct outbox *box, const struct feed_run *run,
    uint32_t max_receipts, size_t max_bytes, uint32_t *n_taken)
{
    struct feed_run cut = cut_run(box, run, max_receipts, max_bytes);
    struct outbox_run *node;

    *n_taken = 0;
    if (cut.n_receipts == 0)
        return run->n_receipts == 0 ? KV_OK : KV_BUSY;
    node = kv_calloc(1, sizeof *node);
    if (node == NULL)
        return KV_NO_MEMORY;
    node->run = cut;
    feed_run_retain(&node->run);
    if (box->last != NULL)
        box->last->next = node;
    else
        box->first = node;
    box->last = node;
    box->n_receipts += cut.n_receipts;
    box->n_bytes += cut.n_bytes;
    *n_taken = cut.n_receipts;
    return cut.n_receipts == run->n_receipts ? KV_OK : KV_BUSY;
}

void outbox_move(struct outbox *to, struct outbox *from)
{
    if (from->first == NULL)
        return;
    if (to->last != NULL)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    to->n_receipts += from->n_receipts;
    to->n_bytes += from->n_bytes;
    *from = (struct outbox){0};
}

static uint64_t last_sequence(const struct feed_run *run)
{
    return run->first_sequence + run->n_receipts - 1;
}

static void drop_first_run(struct outbox *box)
{
    struct outbox_run *node = box->first;

    box->first = node->next;
    if (box->first == NULL)
        box->last = NULL;
    box->n_receipts -= node->run.n_receipts;
    box->n_bytes -= node->run.n_bytes;
    feed_run_release(node->run.chunk);
    kv_free(node);
}

static void drop_first_receipt(struct outbox *box)
{
    struct feed_run *run = &box->first->run;
    const unsigned char *at = run->bytes, *receipt;
    size_t n_bytes, n_entry;

    feed_run_entry(run, &at, &receipt, &n_bytes);
    n_entry = (size_t)(at - run->bytes);
    run->bytes = at;
    run->n_bytes -= n_entry;
    run->n_receipts--;
    run->first_sequence++;
    box->n_bytes -= n_entry;
    box->n_receipts--;
}

void outbox_drop(struct outbox *box, uint64_t through_sequence)
{
    while (box->first != NULL &&
           last_sequence(&box->first->run) <= through_sequence)
        drop_first_run(box);
    while (box->first != NULL &&
           box->first->run.first_sequence <= through_sequence)
        drop_first_receipt(box);
}

void outbox_clear(struct outbox *box)
{
    while (box->first != NULL)
        drop_first_run(box);
}

bool outbox_next(const struct outbox *box, struct outbox_place *place,
    const unsigned char **receipt, size_t *n_bytes)
{
    const struct outbox_run *node = place->run;
    const unsigned char *at = place->at;
    uint64_t sequence = place->sequence + 1;

    if (node == NULL || at == node->run.bytes + node->run.n_bytes) {
        node = node == NULL ? box->first : node->next;
        if (node == NULL)
            return false;
        at = node->run.bytes;
        sequence = node->run.first_sequence;
    }
    feed_run_entry(&node->run, &at, receipt, n_bytes);
    *place = (struct outbox_place){node, at, sequence};
    return true;
}
