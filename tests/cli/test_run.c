/* Command lines, up to the point where a server would be asked. */
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "cli/command.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define MAX_ARGS 300

/* What a command line printed, and its exit code. */
struct ran {
    enum cli_exit code;
    char *out, *err;
};

static struct ran run_with(
    const char *stdin_text, size_t n_stdin, size_t n_args, char *const *args)
{
    struct ran ran;
    size_t n_out, n_err;
    struct cli cli = {.server = "127.0.0.1:1"};

    cli.in = fmemopen((void *)stdin_text, n_stdin, "r");
    cli.out = open_memstream(&ran.out, &n_out);
    cli.err = open_memstream(&ran.err, &n_err);
    ran.code = cli_run(&cli, (int)n_args, args);
    fclose(cli.in);
    fclose(cli.out);
    fclose(cli.err);
    return ran;
}

static void ran_free(struct ran *ran)
{
    free(ran->out);
    free(ran->err);
}

static struct ran run_words(const char *words)
{
    char copy[1024], *args[MAX_ARGS] = {"kvpoolctl"}, *rest = copy;
    size_t n = 1;

    snprintf(copy, sizeof copy, "%s", words);
    for (char *word; (word = strsep(&rest, " ")) != NULL;)
        if (*word != '\0')
            args[n++] = word;
    return run_with(" ", 1, n, args);
}

START_TEST(every_command_and_option_is_in_the_help)
{
    struct ran ran = run_words("--help");

    ck_assert_int_eq(ran.code, CLI_OK);
    for (size_t i = 0; i < n_commands; i++)
        ck_assert_ptr_nonnull(strstr(ran.out, commands[i].name));
    ck_assert_ptr_nonnull(strstr(ran.out, "Exit codes"));
    ran_free(&ran);
    for (size_t i = 0; i < n_commands; i++) {
        const struct option_table *table = &commands[i].options;
        char words[64], name[64];

        snprintf(words, sizeof words, "%s --help", commands[i].name);
        ran = run_words(words);
        ck_assert_int_eq(ran.code, CLI_OK);
        ck_assert_str_eq(ran.err, "");
        ck_assert_ptr_nonnull(strstr(ran.out, commands[i].name));
        ck_assert_ptr_nonnull(strstr(ran.out, "--server ADDRESS"));
        ck_assert_ptr_nonnull(strstr(ran.out, "interrupted"));
        for (size_t j = 0; j < table->n; j++) {
            snprintf(name, sizeof name, "--%s", table->specs[j].name);
            ck_assert_ptr_nonnull(strstr(ran.out, name));
        }
        ran_free(&ran);
    }
}
END_TEST

START_TEST(help_fits_a_terminal)
{
    for (size_t i = 0; i < n_commands; i++) {
        char words[64], *rest;
        struct ran ran;

        snprintf(words, sizeof words, "%s -h", commands[i].name);
        ran = run_words(words);
        rest = ran.out;
        for (char *line; (line = strsep(&rest, "\n")) != NULL;)
            ck_assert_msg(strlen(line) <= 80, "%s", line);
        ran_free(&ran);
    }
}
END_TEST

START_TEST(options_of_a_command_are_told_apart)
{
    for (size_t i = 0; i < n_commands; i++) {
        const struct option_table *tables[] = {
            &commands[i].options, &command_globals};
        char letters[64] = "";

        for (size_t t = 0; t < 2; t++) {
            for (size_t j = 0; j < tables[t]->n; j++) {
                char letter = tables[t]->specs[j].letter;

                if (letter == '\0')
                    continue;
                ck_assert_msg(strchr(letters, letter) == NULL, "%s: -%c twice",
                    commands[i].name, letter);
                letters[strlen(letters)] = letter;
            }
        }
    }
}
END_TEST

START_TEST(a_wrong_command_line_is_told_in_words)
{
    static const struct {
        const char *words, *wanted;
    } cases[] = {
        {"", "a command is missing"},
        {"dance", "dance: no such command"},
        {"receipts", "needs tail, export, audit"},
        {"receipts dance", "receipts dance: no such command"},
        {"--speed 5 ping", "--speed: no such option"},
        {"ping --speed", "--speed: no such option"},
        {"ping -x", "-x: no such option"},
        {"ping --wait=yes", "--wait: takes no value"},
        {"ping --timeout", "--timeout: its value is missing"},
        {"ping --timeout 5", "--timeout: \"5\" given"},
        {"ping now", "takes 0 arguments"},
        {"ping -o xml", "text|json|jsonl allowed"},
        {"generate", "a PROMPT is missing"},
        {"generate hello you", "quote a text"},
        {"generate --max-tokens 0 x", "from 1 to 4294967295 allowed"},
        {"generate --max-tokens many x", "\"many\" given"},
        {"generate --temperature 2.5 x", "from 0 to 2 allowed"},
        {"generate --temperature nan x", "from 0 to 2 allowed"},
        {"generate --top-p -1 x", "from 0 to 1 allowed"},
        {"generate --min-p 1.1 x", "from 0 to 1 allowed"},
        {"generate --repetition-penalty -1 x", "from 0 to 2 allowed"},
        {"generate --frequency-penalty -2.1 x", "from -2 to 2 allowed"},
        {"generate --presence-penalty 3 x", "from -2 to 2 allowed"},
        {"generate --penalty-window 0 x", "from 1 to"},
        {"generate --logit-bias 5 x", "\"5\" given where TOKEN=X belongs"},
        {"generate --logit-bias 155 x", "\"155\" given where TOKEN=X belongs"},
        {"generate --logit-bias 1=2,3=101 x", "\"3=101\" given"},
        {"generate --logit-bias 1=2, x", "\"\" given where TOKEN=X"},
        {"generate --logit-bias 1=nan x", "from -100 to 100"},
        {"generate -o json --top-logprobs 2 x", "needs --logprobs"},
        {"generate -o json --logprobs --top-logprobs 21 x", "from 1 to 20"},
        {"generate --logprobs x", "allowed with json and jsonl"},
        {"generate --tokens 1,x", "numbers from 0 to 4294967295"},
        {"generate --tokens 1,,2", "numbers from 0"},
        {"generate --tokens 4294967296", "numbers from 0"},
        {"generate --tokens 1 hello", "not together with a PROMPT"},
        {"generate --session= x", "--session: 0 bytes given, 1 to 128"},
        {"generate --session a --session b x", "more than 1 times"},
        {"generate --session \x1b x", "control characters"},
        {"generate --session \xff x", "not UTF-8"},
        {"generate \xff", "the text: not UTF-8"},
        {"tokenize", "a text is missing"},
        {"detokenize", "tokens are missing"},
        {"detokenize 1 two", "\"two\" given"},
        {"evict", "one of --session, --prefix-tokens, --idle, --bytes"},
        {"evict --idle 5m --bytes 7", "not together"},
        {"evict --all --idle 5m", "not together"},
        {"evict --session a --bytes 7", "not together"},
        {"evict --prefix-tokens 1,x", "--prefix-tokens"},
        {"evict --bytes 0", "from 1 to"},
        {"sessions --order name", "key|age|size|idle|hits allowed"},
        {"sessions --state gone", "allowed"},
        {"evict --all --tenant a", "not together"},
        {"evict --all --max 10001", "from 1 to 10000 allowed"},
        {"evict --all --wait later", "applied|durable allowed"},
        {"retain", "--session is missing"},
        {"retain -S a --priority 101", "from 0 to 100 allowed"},
        {"retain -S a --pin forever", "\"forever\" given, a whole number"},
        {"retain -S a --idle-ttl -1s", "\"-1s\" given, a whole number"},
        {"retain -S a --lease r", "reader-1=30s"},
        {"retain -S a --lease r=", "reader-1=30s"},
        {"retain -S a --lease =30s", "a name of 1 to 64 bytes"},
        {"receipts tail --from now", "latest, earliest, snapshot, "},
        {"receipts tail --max-batch 1025", "from 1 to 1024"},
        {"sessions --limit 0", "from 1 to"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ran ran = run_words(cases[i].words);

        ck_assert_msg(
            ran.code == CLI_USAGE, "%s: %d", cases[i].words, ran.code);
        ck_assert_msg(strstr(ran.err, cases[i].wanted) != NULL, "%s: %s",
            cases[i].words, ran.err);
        ck_assert_ptr_nonnull(strstr(ran.err, "--help"));
        ck_assert_str_eq(ran.out, "");
        ran_free(&ran);
    }
}
END_TEST

START_TEST(an_option_may_be_written_in_each_usual_way)
{
    static const char *const same[] = {"-o xml ping", "-oxml ping",
        "--output xml ping", "--output=xml ping", "ping -o xml"};

    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct ran ran = run_words(same[i]);

        ck_assert_int_eq(ran.code, CLI_USAGE);
        ck_assert_ptr_nonnull(strstr(ran.err, "\"xml\" given"));
        ran_free(&ran);
    }
}
END_TEST

START_TEST(behind_two_dashes_nothing_is_an_option)
{
    char *args[] = {"kvpoolctl", "ping", "--", "--help"};
    struct ran ran = run_with(" ", 1, 4, args);

    ck_assert_int_eq(ran.code, CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(ran.err, "\"--help\": ping takes 0"));
    ran_free(&ran);
}
END_TEST

START_TEST(a_prompt_from_stdin_is_checked_too)
{
    char *args[] = {"kvpoolctl", "generate", "-"};
    struct ran ran = run_with("a\0b", 3, 3, args);

    ck_assert_int_eq(ran.code, CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(ran.err, "stdin: the character U+0000"));
    ran_free(&ran);
    ran = run_with("a\xFF", 2, 3, args);
    ck_assert_int_eq(ran.code, CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(ran.err, "stdin: not UTF-8"));
    ran_free(&ran);
}
END_TEST

START_TEST(a_list_of_options_has_an_end)
{
    char *args[2 + 2 * 257 + 1] = {"kvpoolctl", "evict"};
    struct ran ran;

    for (size_t i = 0; i < 257; i++) {
        args[2 + 2 * i] = "--session";
        args[3 + 2 * i] = "a";
    }
    ran = run_with(" ", 1, 2 + 2 * 257, args);
    ck_assert_int_eq(ran.code, CLI_USAGE);
    ck_assert_ptr_nonnull(strstr(ran.err, "more than 256 times"));
    ran_free(&ran);
}
END_TEST

START_TEST(the_version_is_said_without_a_server)
{
    struct ran ran = run_words("--version");

    ck_assert_int_eq(ran.code, CLI_OK);
    ck_assert_str_eq(ran.out, "kvpoolctl " CLI_VERSION "\n");
    ran_free(&ran);
}
END_TEST

START_TEST(output_that_cannot_be_written_is_a_failure)
{
    struct cli cli = {.in = stdin, .err = stderr};
    char *args[] = {"kvpoolctl", "--help"};
    char *said = NULL;
    size_t n;

    cli.out = fopen("/dev/full", "w");
    cli.err = open_memstream(&said, &n);
    ck_assert_int_eq(cli_run(&cli, 2, args), CLI_FAILED);
    fclose(cli.err);
    fclose(cli.out);
    ck_assert_ptr_nonnull(strstr(said, "No space left"));
    free(said);
}
END_TEST

START_TEST(without_memory_a_command_says_so)
{
    struct ran ran;

    for (int nth = 0; nth < 3; nth++) {
        faulty_heap_install();
        faulty_heap_fail_at(nth);
        ran = run_words("generate --tokens 1,2,3,4 x");
        ck_assert_int_ne(ran.code, CLI_OK);
        ck_assert_int_eq(faulty_heap_live(), 0);
        ran_free(&ran);
    }
    kv_heap_use(NULL);
}
END_TEST

static struct ran audit_text(const char *text)
{
    char *args[] = {"kvpoolctl", "receipts", "audit", "--file", "-"};

    return run_with(text, strlen(text), 5, args);
}

START_TEST(an_audit_of_a_file_names_the_line_that_is_no_receipt)
{
    struct ran ran = audit_text("\n{}}\n");

    ck_assert_int_eq(ran.code, CLI_FAILED);
    ck_assert_ptr_nonnull(strstr(ran.err, "-: line 2: no JSON"));
    ran_free(&ran);
    ran = audit_text("\n\n{\"event\": 7}\n");
    ck_assert_int_eq(ran.code, CLI_FAILED);
    ck_assert_ptr_nonnull(strstr(ran.err, "line 3: "));
    ran_free(&ran);
    ran = audit_text("\n\n");
    ck_assert_int_eq(ran.code, CLI_OK);
    ck_assert_ptr_nonnull(strstr(ran.err, "no receipts"));
    ran_free(&ran);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        every_command_and_option_is_in_the_help,
        help_fits_a_terminal,
        options_of_a_command_are_told_apart,
        a_wrong_command_line_is_told_in_words,
        an_option_may_be_written_in_each_usual_way,
        behind_two_dashes_nothing_is_an_option,
        a_prompt_from_stdin_is_checked_too,
        a_list_of_options_has_an_end,
        the_version_is_said_without_a_server,
        output_that_cannot_be_written_is_a_failure,
        without_memory_a_command_says_so,
        an_audit_of_a_file_names_the_line_that_is_no_receipt,
    };

    return CHECK_RUN("run", NULL, NULL, tests);
}
