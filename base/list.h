/* A circular doubly linked list through a member of the listed struct.
 *
 *     struct kv_list waiting;             kv_list_init(&waiting);
 *     struct request { struct kv_list link; ... };
 *     kv_list_append(&waiting, &request->link);
 *     request = KV_LIST_ENTRY(waiting.next, struct request, link);
 *
 * Nothing is allocated; an entry is on one list at a time. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kv_list {
    struct kv_list *prev, *next;
};

#define KV_LIST_ENTRY(node, type, member)                                      \
    ((type *)(void *)((char *)(node)-offsetof(type, member)))

/* The body may remove node, and nothing else. */
#define KV_LIST_EACH(node, list)                                               \
    for (struct kv_list *node = (list)->next, *node##_next = node->next;       \
         node != (list); node = node##_next, node##_next = node->next)

static inline void kv_list_init(struct kv_list *list)
{
    list->prev = list->next = list;
}

static inline bool kv_list_empty(const struct kv_list *list)
{
    return list->next == list;
}

static inline void kv_list_insert_before(
    struct kv_list *where, struct kv_list *node)
{
    node->prev = where->prev;
    node->next = where;
    where->prev->next = node;
    where->prev = node;
}

static inline void kv_list_append(struct kv_list *list, struct kv_list *node)
{
    kv_list_insert_before(list, node);
}

static inline void kv_list_prepend(struct kv_list *list, struct kv_list *node)
{
    kv_list_insert_before(list->next, node);
}

/* Leaves node alone on a list of its own, so that removing twice is harmless.
 */
static inline void kv_list_remove(struct kv_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    kv_list_init(node);
}

/* Appends all of `from`, which is empty then. */
static inline void kv_list_splice(struct kv_list *list, struct kv_list *from)
{
    if (kv_list_empty(from))
        return;
    from->next->prev = list->prev;
    list->prev->next = from->next;
    from->prev->next = list;
    list->prev = from->prev;
    kv_list_init(from);
}

#endif
