/* Commands in this process, so that a test decides what is a terminal and when
 * memory ends. The server is another process: its memory does not end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/heap.h"
#include "cli/cli.h"
#include "tests/cli/stand_in.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define MAX_ARGS 32

static char folder[32], address[64];
static pid_t server;

struct ran {
    enum cli_exit code;
    char *out, *err;
};

static void serve(void)
{
    struct stand_in stand_in;

    stand_in_open(&stand_in,
        &(struct stand_in_script){.n_receipts = 6, .n_sessions = 12}, address);
    for (;;)
        pause();
}

static struct ran run(const char *words, bool out_tty, bool err_tty)
{
    char copy[512], *args[MAX_ARGS] = {"kvpoolctl", "-s", address};
    char *rest = copy;
    size_t n_args = 3, n_out, n_err;
    struct cli cli = {.in = stdin, .out_tty = out_tty, .err_tty = err_tty};
    struct ran ran;

    snprintf(copy, sizeof copy, "%s", words);
    for (char *word; (word = strsep(&rest, " ")) != NULL;)
        args[n_args++] = word;
    cli.out = open_memstream(&ran.out, &n_out);
    cli.err = open_memstream(&ran.err, &n_err);
    ran.code = cli_run(&cli, (int)n_args, args);
    fclose(cli.out);
    fclose(cli.err);
    return ran;
}

static void ran_free(struct ran *ran)
{
    free(ran->out);
    free(ran->err);
}

static void set_up(void)
{
    struct ran ran;

    strcpy(folder, "/tmp/kvpoolctl.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(address, sizeof address, "unix:%s/s", folder);
    server = fork();
    ck_assert_int_ge(server, 0);
    if (server == 0)
        serve();
    ran = run("ping --wait --timeout 60s", false, false);
    ck_assert_int_eq(ran.code, CLI_OK);
    ran_free(&ran);
}

static void tear_down(void)
{
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    unlink(address + strlen("unix:"));
    rmdir(folder);
}

START_TEST(a_terminal_gets_no_control_character_of_a_model)
{
    struct ran ran = run("generate hello", true, false);

    ck_assert_int_eq(ran.code, CLI_OK);
    ck_assert_str_eq(ran.out, "one \\x1b[31mtwo\n\tthree\n");
    ck_assert_str_eq(ran.err, "");
    ran_free(&ran);
}
END_TEST

START_TEST(a_terminal_gets_the_usage_at_the_end)
{
    struct ran ran = run("generate hello", true, true);

    ck_assert_ptr_nonnull(strstr(ran.err, "END_OF_TEXT; prompt 0 tokens"));
    ran_free(&ran);
}
END_TEST

START_TEST(json_on_a_terminal_is_ascii_and_in_a_pipe_it_is_not)
{
    static const char words[] = "evict -o jsonl --session gr\xC3\xBC\xC3\x9F";
    struct ran ran = run(words, true, false);

    ck_assert_ptr_nonnull(strstr(ran.out, "\"gr\\u00FC\\u00DF\""));
    ran_free(&ran);
    ran = run(words, false, false);
    ck_assert_ptr_nonnull(strstr(ran.out, "\"gr\xC3\xBC\xC3\x9F\""));
    ran_free(&ran);
}
END_TEST

START_TEST(progress_is_for_a_terminal_that_shows_nothing_else)
{
    static const struct {
        bool out_tty, err_tty, shown;
    } cases[] = {{false, true, true}, {true, true, false}, {true, false, false},
        {false, false, false}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ran ran = run("sessions", cases[i].out_tty, cases[i].err_tty);

        ck_assert_int_eq(ran.code, CLI_OK);
        ck_assert(
            (strstr(ran.err, "pages of sessions") != NULL) == cases[i].shown);
        ck_assert_ptr_null(strstr(ran.out, "pages of sessions"));
        ran_free(&ran);
    }
}
END_TEST

/* Fails one allocation and all after it, a later one each time, until the
 * command needs no more. */
static void assert_survives_without_memory(const char *words)
{
    struct ran ran = {.code = CLI_FAILED};
    int nth;

    for (nth = 0; ran.code != CLI_OK; nth++) {
        faulty_heap_install();
        faulty_heap_fail_at(nth);
        ran = run(words, false, false);
        ck_assert_msg(faulty_heap_live() == 0, "%s: %d left at %d", words,
            faulty_heap_live(), nth);
        ck_assert_msg(ran.code == CLI_OK || strlen(ran.err) > 0,
            "%s: silent at %d", words, nth);
        ran_free(&ran);
        ck_assert_int_lt(nth, 2000);
    }
    ck_assert_int_gt(nth, 3);
    kv_heap_use(NULL);
}

START_TEST(a_command_without_memory_says_so_and_leaks_nothing)
{
    static const char *const commands[] = {"ping", "describe", "snapshot",
        "tokenize hello", "tokenize hello -o json", "detokenize 1,2,3",
        "evict --session a", "retain --session a", "sessions",
        "sessions -o json", "generate hello", "generate hello -o json",
        "generate --tokens 1,2,3 -o jsonl",
        "receipts tail --from earliest --limit 6 --no-reconnect",
        "receipts audit"};

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        assert_survives_without_memory(commands[i]);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_terminal_gets_no_control_character_of_a_model,
        a_terminal_gets_the_usage_at_the_end,
        json_on_a_terminal_is_ascii_and_in_a_pipe_it_is_not,
        progress_is_for_a_terminal_that_shows_nothing_else,
        a_command_without_memory_says_so_and_leaks_nothing,
    };

    return CHECK_RUN("terminal", set_up, tear_down, tests);
}
