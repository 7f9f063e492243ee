/* Reads receipts as the bytes they are, in which they are hashed: decoding and
 * encoding again would be somebody else's bytes. */
#ifndef CLI_LEAVES_H
#define CLI_LEAVES_H

#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"
#include "kvpool/v1/receipts.pb-c.h"

/* The caller's memory. */
struct leaves {
    struct cli *cli;
    uint64_t last; /* ends with the receipt of this sequence */

    /* A receipt and its bytes; both borrowed. Anything but CLI_OK ends with
     * it. */
    enum cli_exit (*take)(void *ctx, const Kvpool__V1__Receipt *receipt,
        const unsigned char *bytes, size_t n_bytes);
    void *ctx;

    uint64_t previous; /* 0: none yet */
};

/* From the oldest receipt that the server has, on one connection. CLI_OK: all
 * up to `last` were taken, without a hole. */
enum cli_exit leaves_read(struct leaves *leaves);

#endif
