/* Columns for a terminal: cells are gathered, then printed so wide that they
 * fit; the width stays for what follows, so that a long list can be printed in
 * portions. Names must have been made harmless before (text_name). */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

#define TABLE_COLUMNS_MAX 12

/* The caller's memory, zeroed but for the first two. */
struct table {
    const char *const *titles; /* a leading '>' aligns to the right */
    size_t n_columns;
    size_t widths[TABLE_COLUMNS_MAX];
    char **cells;
    size_t n_cells, capacity;
    bool titled, failed;
};

/* The next cell; rows fill from left to right. Without memory the table prints
 * nothing, and table_flush says so. */
__attribute__((format(printf, 2, 3))) void table_cell(
    struct table *table, const char *format, ...);

/* Prints the rows gathered, the titles first, and forgets them. Only whole
 * rows may be there. KV_NO_MEMORY. */
enum kv_status table_flush(struct table *table, FILE *out);

void table_fini(struct table *table);

#endif
