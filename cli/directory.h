/* Receipts in a directory of a journal, of a running server too: no server is
 * asked. */
#ifndef CLI_DIRECTORY_H
#define CLI_DIRECTORY_H

#include <stdint.h>

#include "cli/cli.h"
#include "kvpool/v1/receipts.pb-c.h"

/* A data_dir, or the folder of receipts in it: the latter, kv_free'd by the
 * caller. NULL: out of memory, which was told. */
char *directory_of_receipts(struct cli *cli, const char *path);

/* The caller's memory. */
struct directory_reader {
    struct cli *cli;
    const char *path;     /* as directory_of_receipts */
    uint64_t first, last; /* all that are there between them */

    /* A receipt, borrowed. Anything but CLI_OK ends with it. */
    enum cli_exit (*take)(void *ctx, const Kvpool__V1__Receipt *receipt);
    void *ctx;
};

/* CLI_DAMAGED: what is there cannot be what was written. Failures were told. */
enum cli_exit directory_read(struct directory_reader *reader);

#endif
