/* Where the nodes of a Merkle tree lie: numbered places that are filled in
 * order, in memory or in a file.
 *
 *   in memory   |piece 0|piece 1|piece 2  |
 *
 *   in a file   |header|node 0|node 1| ... |node w - 1|
 *                                      |piece k    |piece k+1 |    in memory:
 *                                            w ^                   what is not
 *                                                                  in the file
 *                                                                  yet, and a
 *                                                                  little more
 *
 * A piece is 64 KiB and never moves. Nodes of the file are read one by one and
 * believed by nobody: who reads them checks what comes of them.
 *
 * Part of merkle.c, which takes care of threads. */
#ifndef RECEIPTS_MERKLE_NODES_H
#define RECEIPTS_MERKLE_NODES_H

#include <pthread.h>

#include "receipts/merkle.h"

/* Of the file, before its nodes. */
#define MERKLE_NODES_HEADER_BYTES 32

/* In memory. KV_NO_MEMORY. */
enum kv_status merkle_nodes_init(struct merkle_nodes *nodes);

/* In this file, which is made if it may be written and is not there. *n_nodes
 * becomes how many whole ones it holds; merkle_nodes_cut comes next. */
enum kv_status merkle_nodes_open(struct merkle_nodes *nodes, const char *path,
    bool may_write, uint64_t *n_nodes, struct kv_error *error);

void merkle_nodes_fini(struct merkle_nodes *nodes);

/* Only the first n_nodes remain. KV_NO_MEMORY, KV_IO, KV_DATA_LOSS: nothing is
 * done. */
enum kv_status merkle_nodes_cut(struct merkle_nodes *nodes, uint64_t n_nodes);

/* Room for this many in all. KV_NO_MEMORY: nothing is done. */
enum kv_status merkle_nodes_reserve(
    struct merkle_nodes *nodes, uint64_t n_nodes);
bool merkle_nodes_have_room(const struct merkle_nodes *nodes, uint64_t n_nodes);

/* Fills a place for which there is room. */
void merkle_nodes_put(
    struct merkle_nodes *nodes, uint64_t place, const struct merkle_hash *hash);

/* Reads a place that was filled. *is_certain becomes false if it came from the
 * file, and else stays. KV_IO, KV_DATA_LOSS: it cannot be read. */
enum kv_status merkle_nodes_get(struct merkle_nodes *nodes, uint64_t place,
    struct merkle_hash *out, bool *is_certain);

/* Nodes of the file turned out not to be what they were. */
void merkle_nodes_doubt(struct merkle_nodes *nodes);

/* Brings the first n_nodes, which are filled, into the file for good. Takes the
 * lock, but not while it writes. KV_IO: errno says what. */
enum kv_status merkle_nodes_sync(
    struct merkle_nodes *nodes, uint64_t n_nodes, pthread_mutex_t *lock);

#endif
