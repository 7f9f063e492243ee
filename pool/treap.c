#include "pool/treap.h"

#include <string.h>

int treap_compare_bytes(
    const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t n = a_bytes < b_bytes ? a_bytes : b_bytes;
    int order = n > 0 ? memcmp(a, b, n) : 0;

    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* The side of the node on which the key belongs. */
static struct treap_node **side_of(
    const struct treap *treap, struct treap_node *node, const void *key)
{
    return treap->compare(node, key) < 0 ? &node->right : &node->left;
}

void treap_insert(struct treap *treap, struct treap_node *node, const void *key)
{
    struct treap_node **at = &treap->root, *rest;
    struct treap_node **less = &node->left, **more = &node->right;

    while (*at != NULL && treap->rank(*at) >= treap->rank(node))
        at = side_of(treap, *at, key);
    rest = *at;
    *at = node;

    /* Part the subtree that was there into what comes before and after. */
    while (rest != NULL) {
        if (treap->compare(rest, key) < 0) {
            *less = rest;
            less = &rest->right;
            rest = *less;
        } else {
            *more = rest;
            more = &rest->left;
            rest = *more;
        }
    }
    *less = *more = NULL;
}

void treap_remove(struct treap *treap, struct treap_node *node, const void *key)
{
    struct treap_node **at = &treap->root;
    struct treap_node *left = node->left, *right = node->right;

    while (*at != node)
        at = side_of(treap, *at, key);

    /* Join the two subtrees in its place. */
    while (left != NULL && right != NULL) {
        if (treap->rank(left) >= treap->rank(right)) {
            *at = left;
            at = &left->right;
            left = *at;
        } else {
            *at = right;
            at = &right->left;
            right = *at;
        }
    }
    *at = left != NULL ? left : right;
}

struct treap_node *treap_find(const struct treap *treap, const void *key)
{
    struct treap_node *at = treap->root;
    int order;

    while (at != NULL && (order = treap->compare(at, key)) != 0)
        at = order < 0 ? at->right : at->left;
    return at;
}

struct treap_node *treap_after(const struct treap *treap, const void *key)
{
    struct treap_node *at = treap->root, *found = NULL;

    while (at != NULL) {
        if (key == NULL || treap->compare(at, key) > 0) {
            found = at;
            at = at->left;
        } else {
            at = at->right;
        }
    }
    return found;
}
