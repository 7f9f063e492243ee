#include "server/progress_line.h"

#include <unistd.h>

/* A terminal's: to the beginning of the line, and nothing to its end. */
#define CLEAR "\r\033[K"

static void report(
    void *ctx, const char *stage, uint64_t n_done, uint64_t n_all)
{
    struct progress_line *line = ctx;
    const unsigned percent =
        n_all == 0 ? 100 : (unsigned)((double)n_done * 100 / (double)n_all);

    if (line->out == NULL || (line->stage == stage && line->percent == percent))
        return;
    line->stage = stage;
    line->percent = percent;
    fprintf(line->out, CLEAR "kvpoold: %s %3u%%", stage, percent);
    fflush(line->out);
}

struct progress progress_line_init(struct progress_line *line, FILE *out)
{
    *line =
        (struct progress_line){.out = isatty(fileno(out)) == 1 ? out : NULL};
    return (struct progress){.report = report, .ctx = line};
}

void progress_line_clear(struct progress_line *line)
{
    if (line->stage == NULL)
        return;
    line->stage = NULL;
    fputs(CLEAR, line->out);
    fflush(line->out);
}
