/* One line on a terminal that says how far loading is, and goes when it is
 * over:
 *
 *     kvpoold: packing weights  45%
 *
 * Nothing is written where the stream is no terminal. */
#ifndef SERVER_PROGRESS_LINE_H
#define SERVER_PROGRESS_LINE_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/progress.h"

struct progress_line {
    FILE *out; /* borrowed; NULL: no terminal */
    const char *stage;
    unsigned percent;
};

/* What engine reports goes to the line, which must outlive it. */
struct progress progress_line_init(struct progress_line *line, FILE *out);

/* Before anything else is written there; what is reported later begins anew. */
void progress_line_clear(struct progress_line *line);

#endif
