/* receipts verify of a directory: receipts/verify.h in words. */
#ifndef CLI_VERIFY_DIRECTORY_H
#define CLI_VERIFY_DIRECTORY_H

#include "cli/cli.h"

/* A data_dir, or the folder of receipts in it. With --new, only the two
 * checkpoints are compared, by a proof of the directory's tree. */
enum cli_exit verify_directory_run(struct cli *cli, const char *path);

#endif
