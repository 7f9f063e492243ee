/* A search tree through an embedded node: a treap.
 *
 * Its nodes also have a rank, no child's greater than its parent's, which keeps
 * it about 2 log2 n deep whatever order they come in, as long as ranks are
 * random to whoever chooses the keys: a keyed hash of the key. Nothing is
 * allocated. */
#ifndef POOL_TREAP_H
#define POOL_TREAP_H

#include <stddef.h>
#include <stdint.h>

struct treap_node {
    struct treap_node *left, *right;
};

/* Less than, equal to or greater than 0, as the node's key comes before *key,
 * is the same, or comes behind. */
typedef int (*treap_compare_cb)(const struct treap_node *node, const void *key);

struct treap {
    struct treap_node *root;
    treap_compare_cb compare;
    uint64_t (*rank)(const struct treap_node *node);

    /* Is told below which node this one is from now on, or that it is the root
     * (NULL), for treap_remove_below; NULL: nobody wants to know. */
    void (*hang)(struct treap_node *node, struct treap_node *above);
};

/* The order of byte strings, for comparisons. */
int treap_compare_bytes(
    const char *a, size_t a_bytes, const char *b, size_t b_bytes);

/* The node has that key, which is not in the tree yet, and a rank. */
void treap_insert(
    struct treap *treap, struct treap_node *node, const void *key);

/* The node has that key, and is in the tree. */
void treap_remove(
    struct treap *treap, struct treap_node *node, const void *key);

/* The same without looking for it, which costs a miss a level in a large tree:
 * it is below that node, or the root (NULL). O(1) on average. */
void treap_remove_below(
    struct treap *treap, struct treap_node *node, struct treap_node *above);

/* The one with that key, or NULL. */
struct treap_node *treap_find(const struct treap *treap, const void *key);

/* The first behind that key, or the first of all for NULL; NULL: none. */
struct treap_node *treap_after(const struct treap *treap, const void *key);

#endif
