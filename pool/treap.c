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

/* A place for a node: a side of the one above it, or the root (NULL). */
struct place {
    struct treap_node **at, *above;
};

static void put(
    const struct treap *treap, struct place place, struct treap_node *node)
{
    *place.at = node;
    if (node != NULL && treap->hang != NULL)
        treap->hang(node, place.above);
}

void treap_insert(struct treap *treap, struct treap_node *node, const void *key)
{
    struct place place = {&treap->root, NULL};
    struct place less = {&node->left, node}, more = {&node->right, node};
    struct treap_node *rest;

    while (*place.at != NULL && treap->rank(*place.at) >= treap->rank(node)) {
        place.above = *place.at;
        place.at = side_of(treap, place.above, key);
    }
    rest = *place.at;
    put(treap, place, node);

    /* Part the subtree that was there into what comes before and after. */
    while (rest != NULL) {
        if (treap->compare(rest, key) < 0) {
            put(treap, less, rest);
            less = (struct place){&rest->right, rest};
            rest = rest->right;
        } else {
            put(treap, more, rest);
            more = (struct place){&rest->left, rest};
            rest = rest->left;
        }
    }
    *less.at = *more.at = NULL;
}

/* Joins the two subtrees of what is at that place. */
static void remove_at(const struct treap *treap, struct place place)
{
    struct treap_node *left = (*place.at)->left, *right = (*place.at)->right;

    while (left != NULL && right != NULL) {
        if (treap->rank(left) >= treap->rank(right)) {
            put(treap, place, left);
            place = (struct place){&left->right, left};
            left = left->right;
        } else {
            put(treap, place, right);
            place = (struct place){&right->left, right};
            right = right->left;
        }
    }
    put(treap, place, left != NULL ? left : right);
}

void treap_remove(struct treap *treap, struct treap_node *node, const void *key)
{
    struct treap_node **at = &treap->root, *above = NULL;

    while (*at != node) {
        above = *at;
        at = side_of(treap, above, key);
    }
    remove_at(treap, (struct place){at, above});
}

void treap_remove_below(
    struct treap *treap, struct treap_node *node, struct treap_node *above)
{
    struct treap_node **at = &treap->root;

    if (above != NULL)
        at = above->left == node ? &above->left : &above->right;
    remove_at(treap, (struct place){at, above});
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
