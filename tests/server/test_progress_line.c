#include <fcntl.h>
#include <pty.h>
#include <string.h>
#include <unistd.h>

#include "server/progress_line.h"
#include "tests/support/check_main.h"

static void report_all(struct progress_line *line, FILE *out)
{
    const struct progress progress = progress_line_init(line, out);

    progress.report(progress.ctx, "reading", 0, 300);
    progress.report(progress.ctx, "reading", 1, 300); /* still 0% */
    progress.report(progress.ctx, "reading", 150, 300);
    progress.report(progress.ctx, "packing weights", UINT64_MAX, UINT64_MAX);
    progress_line_clear(line);
    progress_line_clear(line);
}

START_TEST(a_terminal_sees_one_line_that_goes)
{
    static const char expected[] = "\r\033[Kkvpoold: reading   0%"
                                   "\r\033[Kkvpoold: reading  50%"
                                   "\r\033[Kkvpoold: packing weights 100%"
                                   "\r\033[K";
    struct progress_line line;
    int master, slave;
    FILE *out;
    char seen[512] = "";
    size_t n = 0;

    ck_assert_int_eq(openpty(&master, &slave, NULL, NULL, NULL), 0);
    out = fdopen(slave, "w");
    ck_assert_ptr_nonnull(out);
    report_all(&line, out);
    while (n < strlen(expected)) { /* a terminal passes it on by and by */
        const ssize_t got = read(master, seen + n, sizeof seen - 1 - n);

        ck_assert_int_gt(got, 0);
        n += (size_t)got;
    }
    ck_assert_str_eq(seen, expected);
    fclose(out);
    close(master);
}
END_TEST

START_TEST(anything_else_sees_nothing)
{
    struct progress_line line;
    int ends[2];
    FILE *out;
    char seen[16];

    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    out = fdopen(ends[1], "w");
    ck_assert_ptr_nonnull(out);
    report_all(&line, out);
    fclose(out);
    ck_assert_int_eq(read(ends[0], seen, sizeof seen), 0);
    close(ends[0]);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_terminal_sees_one_line_that_goes,
        anything_else_sees_nothing,
    };

    return CHECK_RUN("progress_line", NULL, NULL, tests);
}
