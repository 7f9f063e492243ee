#include "receipts/merkle.h"

#include <string.h>

#include <openssl/evp.h>

#define LEAF_PREFIX 0x00
#define NODE_PREFIX 0x01

bool merkle_hash_equal(const struct merkle_hash *a, const struct merkle_hash *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

enum kv_status merkle_hasher_init(struct merkle_hasher *hasher)
{
    hasher->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    hasher->context = EVP_MD_CTX_new();
    if (hasher->sha256 != NULL && hasher->context != NULL &&
        EVP_DigestInit_ex2(hasher->context, hasher->sha256, NULL) == 1)
        return KV_OK;
    merkle_hasher_fini(hasher);
    return KV_NO_MEMORY;
}

void merkle_hasher_fini(struct merkle_hasher *hasher)
{
    EVP_MD_CTX_free(hasher->context);
    EVP_MD_free(hasher->sha256);
    *hasher = (struct merkle_hasher){0};
}

static bool finish(struct merkle_hasher *hasher, struct merkle_hash *out)
{
    return EVP_DigestFinal_ex(hasher->context, out->bytes, NULL) == 1;
}

bool merkle_hash_leaf(struct merkle_hasher *hasher, const void *bytes,
    size_t n_bytes, struct merkle_hash *out)
{
    const unsigned char prefix = LEAF_PREFIX;

    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           EVP_DigestUpdate(hasher->context, &prefix, 1) == 1 &&
           EVP_DigestUpdate(hasher->context, bytes, n_bytes) == 1 &&
           finish(hasher, out);
}

bool merkle_hash_node(struct merkle_hasher *hasher,
    const struct merkle_hash *left, const struct merkle_hash *right,
    struct merkle_hash *out)
{
    unsigned char node[1 + 2 * MERKLE_HASH_BYTES];

    node[0] = NODE_PREFIX;
    memcpy(node + 1, left->bytes, sizeof left->bytes);
    memcpy(node + 1 + MERKLE_HASH_BYTES, right->bytes, sizeof right->bytes);
    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           EVP_DigestUpdate(hasher->context, node, sizeof node) == 1 &&
           finish(hasher, out);
}

bool merkle_hash_empty(struct merkle_hasher *hasher, struct merkle_hash *out)
{
    return EVP_DigestInit_ex2(hasher->context, NULL, NULL) == 1 &&
           finish(hasher, out);
}
