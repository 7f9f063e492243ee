#include "receipts/filter.h"

#include <stdint.h>
#include <string.h>

#include "base/heap.h"

/* Receipts are encoded with their fields in the order of their numbers (see the
 * contract), so looking ends with the last field that can matter: the kind in
 * the envelope, and in the kind its reason, behind session and tenant. */

struct text {
    const char *bytes;
    size_t n;
};

struct filter {
    bool by_kind, by_reason;
    uint64_t kinds, reasons; /* a bit for each value */
    size_t n_sessions, n_tenants;
    struct text texts[]; /* tenant and id of each session, then the tenants; and
                            behind them the bytes */
};

/* Where a kind has what is asked for: numbers of fields, 0 if it does not. */
struct place {
    unsigned char kind, session, tenant, reason;
};

static const struct place places[] = {
    [8] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_EVICTION, 1, 2, 3},
    [9] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_EVICTION_BATCH, 0, 0, 8},
    [10] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_POOL_SNAPSHOT, 0, 0, 0},
    [11] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_ALLOCATION, 1, 2, 0},
    [12] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_LIFECYCLE, 0, 0, 0},
    [13] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_RECOMPUTATION, 1, 2, 4},
    [14] = {KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_RELEASE, 1, 2, 0},
};
#define FIRST_KIND 8
#define LAST_KIND 14

/* ---- opening */

static struct text take_text(char **room, const char *text)
{
    struct text copy = {*room, strlen(text)};

    memcpy(*room, text, copy.n);
    *room += copy.n;
    return copy;
}

static size_t text_bytes(const Kvpool__V1__ReceiptFilter *conditions)
{
    size_t n = 0;

    for (size_t i = 0; i < conditions->n_sessions; i++)
        n += strlen(conditions->sessions[i]->tenant) +
             strlen(conditions->sessions[i]->session_id);
    for (size_t i = 0; i < conditions->n_tenants; i++)
        n += strlen(conditions->tenants[i]);
    return n;
}

static uint64_t bit(int value)
{
    return value >= 0 && value < 64 ? UINT64_C(1) << value : 0;
}

static void take_texts(
    struct filter *filter, const Kvpool__V1__ReceiptFilter *conditions)
{
    size_t n_texts = 2 * conditions->n_sessions + conditions->n_tenants;
    char *room = (char *)(filter->texts + n_texts);
    struct text *text = filter->texts;

    for (size_t i = 0; i < conditions->n_sessions; i++) {
        *text++ = take_text(&room, conditions->sessions[i]->tenant);
        *text++ = take_text(&room, conditions->sessions[i]->session_id);
    }
    for (size_t i = 0; i < conditions->n_tenants; i++)
        *text++ = take_text(&room, conditions->tenants[i]);
}

enum kv_status filter_open(
    struct filter **out, const Kvpool__V1__ReceiptFilter *conditions)
{
    struct filter *filter;
    size_t n_texts;

    *out = NULL;
    if (conditions == NULL || conditions->n_kinds + conditions->n_reasons +
                                      conditions->n_sessions +
                                      conditions->n_tenants ==
                                  0)
        return KV_OK;
    n_texts = 2 * conditions->n_sessions + conditions->n_tenants;
    filter = kv_calloc(1, sizeof *filter + n_texts * sizeof *filter->texts +
                              text_bytes(conditions));
    if (filter == NULL)
        return KV_NO_MEMORY;
    filter->by_kind = conditions->n_kinds > 0;
    filter->by_reason = conditions->n_reasons > 0;
    for (size_t i = 0; i < conditions->n_kinds; i++)
        filter->kinds |= bit((int)conditions->kinds[i]);
    for (size_t i = 0; i < conditions->n_reasons; i++)
        filter->reasons |= bit((int)conditions->reasons[i]);
    filter->n_sessions = conditions->n_sessions;
    filter->n_tenants = conditions->n_tenants;
    take_texts(filter, conditions);
    *out = filter;
    return KV_OK;
}

void filter_close(struct filter *filter)
{
    kv_free(filter);
}

/* ---- reading tags */

struct reader {
    const unsigned char *at, *end;
};

static bool read_varint(struct reader *reader, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned shift = 0; reader->at < reader->end && shift < 64;
         shift += 7) {
        value |= (uint64_t)(*reader->at & 0x7f) << shift;
        if ((*reader->at++ & 0x80) == 0) {
            *out = value;
            return true;
        }
    }
    return false;
}

struct field {
    uint64_t number;
    uint64_t value;    /* of a varint */
    struct text bytes; /* of what is length-delimited, else empty */
};

static bool read_bytes(struct reader *reader, uint64_t n, struct text *out)
{
    if (n > (size_t)(reader->end - reader->at))
        return false;
    *out = (struct text){(const char *)reader->at, (size_t)n};
    reader->at += n;
    return true;
}

/* The next field; false at the end, or where there is none. */
static bool read_field(struct reader *reader, struct field *out)
{
    struct text skipped;
    uint64_t tag, n;

    *out = (struct field){.bytes = {"", 0}};
    if (!read_varint(reader, &tag))
        return false;
    out->number = tag >> 3;
    switch (tag & 7) {
    case 0:
        return read_varint(reader, &out->value);
    case 1:
        return read_bytes(reader, 8, &skipped);
    case 2:
        return read_varint(reader, &n) && read_bytes(reader, n, &out->bytes);
    case 5:
        return read_bytes(reader, 4, &skipped);
    default:
        return false;
    }
}

/* ---- deciding */

/* What a receipt says of itself, as far as it is asked. */
struct view {
    const struct place *place;
    struct text session, tenant;
    uint64_t reason;
};

/* The kind's own bytes, and which it is; false where there is none known. */
static bool find_kind(struct reader reader, struct view *view, struct text *out)
{
    struct field field;

    while (read_field(&reader, &field)) {
        if (field.number > LAST_KIND)
            return false;
        if (field.number >= FIRST_KIND) {
            view->place = &places[field.number];
            *out = field.bytes;
            return true;
        }
    }
    return false;
}

static void read_kind(struct text bytes, struct view *view)
{
    const struct place *place = view->place;
    unsigned last =
        place->reason > place->tenant ? place->reason : place->tenant;
    struct reader reader = {(const unsigned char *)bytes.bytes,
        (const unsigned char *)bytes.bytes + bytes.n};
    struct field field;

    while (read_field(&reader, &field) && field.number <= last) {
        if (field.number == 0)
            return;
        if (field.number == place->session)
            view->session = field.bytes;
        else if (field.number == place->tenant)
            view->tenant = field.bytes;
        else if (field.number == place->reason)
            view->reason = field.value;
    }
}

static bool same(const struct text *a, const struct text *b)
{
    return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

static bool has_reason(const struct filter *filter, const struct view *view)
{
    return view->place->reason != 0 && view->reason < 64 &&
           (filter->reasons >> view->reason & 1) != 0;
}

static bool has_session(const struct filter *filter, const struct view *view)
{
    const struct text *text = filter->texts;

    if (view->place->session == 0)
        return false;
    for (size_t i = 0; i < filter->n_sessions; i++, text += 2)
        if (same(&text[1], &view->session) && same(&text[0], &view->tenant))
            return true;
    return false;
}

static bool has_tenant(const struct filter *filter, const struct view *view)
{
    const struct text *text = filter->texts + 2 * filter->n_sessions;

    if (view->place->tenant == 0)
        return false;
    for (size_t i = 0; i < filter->n_tenants; i++)
        if (same(&text[i], &view->tenant))
            return true;
    return false;
}

bool filter_matches(
    const struct filter *filter, const unsigned char *bytes, size_t n_bytes)
{
    struct view view = {.session = {"", 0}, .tenant = {"", 0}};
    struct text kind;

    if (filter == NULL)
        return true;
    if (!find_kind((struct reader){bytes, bytes + n_bytes}, &view, &kind))
        return false;
    if (filter->by_kind && (filter->kinds & bit(view.place->kind)) == 0)
        return false;
    if (!filter->by_reason && filter->n_sessions + filter->n_tenants == 0)
        return true;
    read_kind(kind, &view);
    if (filter->by_reason && !has_reason(filter, &view))
        return false;
    return (filter->n_sessions == 0 || has_session(filter, &view)) &&
           (filter->n_tenants == 0 || has_tenant(filter, &view));
}
