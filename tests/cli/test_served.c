/* The real kvpoolctl against a real server. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/cli.h"
#include "tests/cli/stand_in.h"
#include "tests/support/check_main.h"

#define MAX_ARGS 32

static char folder[32], address[64];

static void set_up(void)
{
    strcpy(folder, "/tmp/kvpoolctl.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(address, sizeof address, "unix:%s/s", folder);
}

static void tear_down(void)
{
    unlink(address + strlen("unix:"));
    rmdir(folder);
}

/* A kvpoolctl that runs: its stdout is a pipe, its stderr a file. */
struct child {
    pid_t pid;
    int out;
    FILE *err;
    char text[65536], said[16384]; /* what it printed so far, and on stderr */
    size_t n_text;
};

static void child_start(struct child *child, const char *words)
{
    char copy[512], *args[MAX_ARGS] = {"kvpoolctl", "-s", address};
    char *rest = copy;
    size_t n = 3;
    int ends[2];
    posix_spawn_file_actions_t actions;

    snprintf(copy, sizeof copy, "%s", words);
    for (char *word; (word = strsep(&rest, " ")) != NULL;)
        args[n++] = word;
    memset(child, 0, sizeof *child);
    child->err = tmpfile();
    ck_assert_int_eq(pipe(ends), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, fileno(child->err), 2);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    ck_assert_int_eq(
        posix_spawn(&child->pid, KVPOOLCTL, &actions, NULL, args, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    child->out = ends[0];
}

/* Reads until there are n_lines lines, or the end. */
static void child_read(struct child *child, size_t n_lines)
{
    for (;;) {
        size_t n_seen = 0;
        ssize_t n;

        for (size_t i = 0; i < child->n_text; i++)
            n_seen += child->text[i] == '\n';
        if (n_seen >= n_lines)
            return;
        n = read(child->out, child->text + child->n_text,
            sizeof child->text - child->n_text - 1);
        if (n <= 0)
            return;
        child->n_text += (size_t)n;
    }
}

static int child_end(struct child *child)
{
    int status;
    size_t n;

    child_read(child, SIZE_MAX);
    close(child->out);
    ck_assert_int_eq(waitpid(child->pid, &status, 0), child->pid);
    rewind(child->err);
    n = fread(child->said, 1, sizeof child->said - 1, child->err);
    child->said[n] = '\0';
    fclose(child->err);
    ck_assert_msg(WIFEXITED(status), "%s", child->said);
    return WEXITSTATUS(status);
}

static int run_child(struct child *child, const char *words)
{
    child_start(child, words);
    return child_end(child);
}

static void assert_said(const struct child *child, const char *words)
{
    ck_assert_msg(strstr(child->said, words) != NULL, "\"%s\" is not in \"%s\"",
        words, child->said);
}

static void assert_printed(const struct child *child, const char *words)
{
    ck_assert_msg(strstr(child->text, words) != NULL, "\"%s\" is not in \"%s\"",
        words, child->text);
}

/* Receipts 1 to n, each once, in order. */
static void assert_receipts(const struct child *child, uint64_t n)
{
    const char *line = child->text;

    for (uint64_t sequence = 1; sequence <= n; sequence++) {
        ck_assert_msg(strtoull(line, NULL, 10) == sequence, "%.40s", line);
        line = strchr(line, '\n');
        ck_assert_ptr_nonnull(line);
        line++;
    }
    ck_assert_str_eq(line, "");
}

/* ---- reaching a server */

START_TEST(without_a_server_every_command_ends_with_three)
{
    static const char *const commands[] = {"ping", "describe", "generate x",
        "tokenize x", "detokenize 1", "sessions", "snapshot", "evict --all",
        "retain --session a", "receipts tail", "receipts audit",
        "receipts checkpoint", "receipts verify"};

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct child child;

        ck_assert_int_eq(run_child(&child, commands[i]), CLI_UNREACHABLE);
        assert_said(&child, "UNAVAILABLE");
        ck_assert_str_eq(child.text, "");
    }
}
END_TEST

START_TEST(ping_tells_serving_from_not_serving)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "ping"), CLI_OK);
    assert_printed(&child, "SERVING");
    stand_in_close(&stand_in);
    stand_in_open(
        &stand_in, &(struct stand_in_script){.not_serving = true}, address);
    ck_assert_int_eq(run_child(&child, "ping -o json"), CLI_NOTHING);
    assert_printed(&child, "\"status\": \"NOT_SERVING\"");
    ck_assert_int_eq(run_child(&child, "ping --wait -t 1s"), CLI_NOTHING);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(ping_waits_for_a_server_that_comes)
{
    struct stand_in stand_in;
    struct child child;

    child_start(&child, "ping --wait --timeout 60s");
    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(child_end(&child), CLI_OK);
    stand_in_close(&stand_in);
}
END_TEST

/* ---- calls */

START_TEST(an_error_is_printed_with_all_its_details_and_no_control_character)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "evict --session bad"), CLI_FAILED);
    assert_said(&child, "INVALID_ARGUMENT (INVALID_FIELD): targets[0].session");
    assert_said(&child, ": \"bad\" given, \\x1b[31m1 to 128\n");
    assert_said(&child, "  wait: 9 given, 0 to 2 allowed\n");
    assert_said(&child, "  limit: 128\n");
    ck_assert_ptr_null(strchr(child.said, '\x1b'));
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(evict_reads_every_page_of_outcomes)
{
    static const char *const ids[] = {"a", "gone", "c"};
    struct stand_in stand_in;
    struct child child;
    json_t *answer, *outcomes;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(
        run_child(&child, "evict --session a --session gone --session c "
                          "--request-id r -o jsonl"),
        CLI_OK);
    answer = json_loads(child.text, 0, NULL);
    outcomes = json_object_get(answer, "outcomes");
    ck_assert_uint_eq(json_array_size(outcomes), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *session =
            json_object_get(json_array_get(outcomes, i), "session");

        ck_assert_str_eq(
            json_string_value(json_object_get(session, "session_id")), ids[i]);
    }
    ck_assert_str_eq(
        json_string_value(json_object_get(answer, "next_page_token")), "");
    json_decref(answer);
    /* A page that is refused fails the call; what was there is shown. */
    ck_assert_int_eq(
        run_child(&child, "evict --session a --session bad --request-id r"),
        CLI_FAILED);
    ck_assert_ptr_nonnull(strstr(child.text, "EVICTED"));
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(evict_of_more_than_a_page_has_an_id)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "evict --all --max 1001"), CLI_OK);
    ck_assert_int_eq(
        run_child(&child, "evict --all --max 1001 --dry-run"), CLI_FAILED);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(evict_tells_whether_anything_was_evicted)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "evict --session a"), CLI_OK);
    assert_printed(&child, "receipts 41 to 41 of epoch 1");
    ck_assert_int_eq(run_child(&child, "evict --session gone"), CLI_NOTHING);
    assert_printed(&child, "NOT_FOUND");
    ck_assert_int_eq(run_child(&child, "evict --tenant t -o jsonl"), CLI_OK);
    assert_printed(&child, "\"result\":\"EVICTED\"");
    ck_assert_int_eq(run_child(&child, "evict --all"), CLI_OK);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(retain_tells_what_is_in_force_and_whether_it_is)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "retain --session a"), CLI_OK);
    assert_printed(&child, "ACCEPTED");
    assert_printed(&child, "later\\x1b until 2023-11-14T22:14:20.000Z, 1 more");
    ck_assert_int_eq(
        run_child(&child, "retain -S a -S b --pin 2m --priority 0"), CLI_OK);
    assert_printed(&child, "CLIPPED");
    assert_printed(&child, "2023-11-14T22:13:20.000Z");
    assert_printed(&child, "pin: at most 60 s");
    ck_assert_int_eq(run_child(&child, "retain -S a -S gone"), CLI_NOTHING);
    assert_printed(&child, "MISSING");
    ck_assert_int_eq(run_child(&child, "retain -S full"), CLI_NOTHING);
    assert_printed(&child, "REJECTED");
    assert_printed(&child, "lease: 16 others run");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(retain_sends_what_is_given_and_nothing_else)
{
    static const struct {
        const char *words, *printed;
    } cases[] = {
        {"--idle-ttl 5m --ttl 1h",
            "\"idle_ttl_ns\":300000000000,\"absolute_ttl_ns\":3600000000000,"
            "\"priority\":50,\"pin_expires_unix_ns\":0"},
        {"--priority 0", "\"priority\":0"},
        {"--pin 0", "\"pin_expires_unix_ns\":1700000000000000000"},
        {"--lease a=b=0", "\"lease_id\":\"a=b\""},
        {"--lease r=30s", "\"expires_unix_ns\":30000000000"},
    };
    struct stand_in stand_in;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char words[128];
        struct child child;

        snprintf(words, sizeof words, "retain -S a -T t -o jsonl %s",
            cases[i].words);
        ck_assert_int_eq(run_child(&child, words), CLI_OK);
        assert_printed(&child, "\"tenant\":\"t\"");
        assert_printed(&child, cases[i].printed);
    }
    stand_in_close(&stand_in);
}
END_TEST

static size_t json_array_printed(const struct child *child)
{
    json_t *json = json_loads(child->text, 0, NULL);
    size_t n = json_array_size(json);

    ck_assert_msg(json_is_array(json), "%s", child->text);
    json_decref(json);
    return n;
}

START_TEST(sessions_come_from_all_pages_and_stop_at_the_limit)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_sessions = 12}, address);
    ck_assert_int_eq(run_child(&child, "sessions"), CLI_OK);
    assert_printed(&child, "chat-0 ");
    assert_printed(&child, "chat-11 ");
    ck_assert_int_eq(run_child(&child, "sessions -o json"), CLI_OK);
    ck_assert_uint_eq(json_array_printed(&child), 12);
    ck_assert_int_eq(run_child(&child, "sessions -o json -n 7"), CLI_OK);
    ck_assert_uint_eq(json_array_printed(&child), 7);
    stand_in_close(&stand_in);
    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "sessions -o json"), CLI_OK);
    ck_assert_uint_eq(json_array_printed(&child), 0);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(what_there_is_can_be_described)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 5}, address);
    ck_assert_int_eq(run_child(&child, "describe"), CLI_OK);
    assert_printed(&child, "demo");
    assert_printed(&child, "64.0 MiB of 512.0 MiB");
    ck_assert_int_eq(run_child(&child, "snapshot --sessions -o json"), CLI_OK);
    assert_printed(&child, "\"used_memory_bytes\": 67108864");
    ck_assert_int_eq(run_child(&child, "describe -o jsonl"), CLI_OK);
    assert_printed(&child, "\"context_length\":2048");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(tokens_go_there_and_back)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "tokenize ab"), CLI_OK);
    ck_assert_str_eq(child.text, "97\n98\n");
    ck_assert_int_eq(run_child(&child, "detokenize 97,98 99"), CLI_OK);
    ck_assert_str_eq(child.text, "abc");
    stand_in_close(&stand_in);
}
END_TEST

/* ---- generate */

START_TEST(a_pipe_gets_the_text_as_it_was_generated)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "generate hello"), CLI_OK);
    ck_assert_str_eq(child.text, "one \x1b[31mtwo\n\tthree\n");
    ck_assert_str_eq(child.said, "");
    ck_assert_int_eq(run_child(&child, "generate hello -v"), CLI_OK);
    assert_said(&child, "END_OF_TEXT");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_generation_is_one_document_or_one_line_each)
{
    struct stand_in stand_in;
    struct child child;
    json_t *json;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    ck_assert_int_eq(run_child(&child, "generate --tokens 1 -o json"), CLI_OK);
    json = json_loads(child.text, 0, NULL);
    ck_assert_str_eq(json_string_value(json_object_get(json, "text")),
        "one \x1b[31mtwo\n\tthree\n");
    ck_assert_uint_eq(json_array_size(json_object_get(json, "token_ids")), 3);
    ck_assert_str_eq(json_string_value(json_object_get(
                         json_object_get(json, "started"), "seed")),
        "18446744073709551615");
    json_decref(json);
    ck_assert_int_eq(run_child(&child, "generate --tokens 1 -o jsonl"), CLI_OK);
    ck_assert_uint_eq(strcspn(child.text, "{"), 0);
    assert_printed(&child, "}\n{\"text\":\"\\u001B[31mtwo\"");
    stand_in_close(&stand_in);
}
END_TEST

static void wait_for(_Atomic int *counter, int n)
{
    while (*counter < n)
        usleep(1000);
}

START_TEST(an_interrupted_generation_is_cancelled)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, &(struct stand_in_script){0}, address);
    child_start(&child, "generate forever");
    while (strstr(child.text, "two") == NULL)
        ck_assert_int_gt(read(child.out, child.text + child.n_text++, 1), 0);
    kill(child.pid, SIGINT);
    ck_assert_int_eq(child_end(&child), CLI_INTERRUPTED);
    wait_for(&stand_in.n_cancelled, 1);
    stand_in_close(&stand_in);
}
END_TEST

/* ---- receipts */

static void assert_tail_survives(const struct stand_in_script *script)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in, script, address);
    ck_assert_int_eq(
        run_child(&child, "receipts tail --from earliest --limit 30"), CLI_OK);
    assert_receipts(&child, 30);
    assert_said(&child, "connection lost");
    assert_said(&child, "connected again");
    ck_assert_int_ge(stand_in.n_streams, 3);
    stand_in_close(&stand_in);
}

START_TEST(a_tail_goes_on_after_each_cut_without_duplicate_or_hole)
{
    static const enum stand_in_end ends[] = {
        STAND_IN_UNAVAILABLE, STAND_IN_CLOSING, STAND_IN_STALLED};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        assert_tail_survives(
            &(struct stand_in_script){.n_receipts = 30, .end = ends[i]});
}
END_TEST

START_TEST(what_is_sent_twice_is_printed_once)
{
    assert_tail_survives(&(struct stand_in_script){
        .n_receipts = 30, .end = STAND_IN_UNAVAILABLE, .n_repeated = 2});
}
END_TEST

START_TEST(a_tail_survives_the_servers_restart)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 6}, address);
    child_start(&child, "receipts tail --from earliest --limit 12");
    child_read(&child, 6);
    stand_in_close(&stand_in);
    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 12}, address);
    ck_assert_int_eq(child_end(&child), CLI_OK);
    assert_receipts(&child, 12);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_ledger_that_is_another_one_ends_a_tail)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 6}, address);
    child_start(&child, "receipts tail --from earliest --limit 12");
    child_read(&child, 6);
    stand_in_close(&stand_in);
    stand_in_open(&stand_in,
        &(struct stand_in_script){.n_receipts = 12, .new_ledger = true},
        address);
    ck_assert_int_eq(child_end(&child), CLI_FAILED);
    assert_said(&child, "LEDGER_MISMATCH");
    assert_receipts(&child, 6);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_hole_is_told_and_ends_a_tail)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in,
        &(struct stand_in_script){.n_receipts = 12, .hole_before = 6}, address);
    ck_assert_int_eq(
        run_child(&child, "receipts tail --from earliest"), CLI_FAILED);
    assert_receipts(&child, 4);
    assert_said(&child, "receipt 6 came after 4");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_tail_ends_with_its_connection_when_told_to)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in,
        &(struct stand_in_script){
            .n_receipts = 30, .end = STAND_IN_UNAVAILABLE},
        address);
    ck_assert_int_eq(
        run_child(&child, "receipts tail --from after:0 --no-reconnect"),
        CLI_UNREACHABLE);
    assert_receipts(&child, 6);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_tail_gives_up_when_the_server_stays_away)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 3}, address);
    child_start(&child, "receipts tail --from earliest --timeout 2s");
    child_read(&child, 3);
    stand_in_close(&stand_in);
    ck_assert_int_eq(child_end(&child), CLI_UNREACHABLE);
    assert_receipts(&child, 3);
}
END_TEST

START_TEST(an_interrupted_tail_leaves_a_whole_document)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 3}, address);
    child_start(&child, "receipts tail --from earliest -o json");
    child_read(&child, 3);
    kill(child.pid, SIGTERM);
    ck_assert_int_eq(child_end(&child), CLI_INTERRUPTED);
    ck_assert_uint_eq(json_array_printed(&child), 3);
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_closed_pipe_ends_a_tail_quietly)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 100000}, address);
    child_start(&child, "receipts tail --from earliest");
    child_read(&child, 1);
    close(child.out);
    child.out = open("/dev/null", O_RDONLY);
    ck_assert_int_eq(child_end(&child), CLI_OK);
    ck_assert_str_eq(child.said, "");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(an_audit_says_that_receipts_add_up_or_which_one_does_not)
{
    struct stand_in stand_in;
    struct child child;

    stand_in_open(&stand_in,
        &(struct stand_in_script){
            .n_receipts = 20, .end = STAND_IN_UNAVAILABLE},
        address);
    ck_assert_int_eq(run_child(&child, "receipts audit"), CLI_OK);
    assert_printed(&child, "receipts 1 to 20 add up");
    stand_in_close(&stand_in);
    stand_in_open(&stand_in,
        &(struct stand_in_script){.n_receipts = 20, .wrong_at = 17}, address);
    ck_assert_int_eq(run_child(&child, "receipts audit"), CLI_FAILED);
    assert_said(&child, "receipt 17: ");
    ck_assert_int_eq(run_child(&child, "receipts audit -o json"), CLI_FAILED);
    assert_printed(&child, "\"adds_up\": false");
    stand_in_close(&stand_in);
}
END_TEST

START_TEST(a_tail_kept_in_a_file_can_be_audited)
{
    struct stand_in stand_in;
    struct child child, auditor;
    char path[64], words[128];
    FILE *file;

    stand_in_open(
        &stand_in, &(struct stand_in_script){.n_receipts = 9}, address);
    ck_assert_int_eq(
        run_child(&child, "receipts tail --from earliest -n 9 -o jsonl"),
        CLI_OK);
    snprintf(path, sizeof path, "%s/receipts", folder);
    file = fopen(path, "w");
    fputs(child.text, file);
    fclose(file);
    snprintf(words, sizeof words, "receipts audit --file %s", path);
    ck_assert_int_eq(run_child(&auditor, words), CLI_OK);
    assert_printed(&auditor, "receipts 1 to 9 add up");
    unlink(path);
    stand_in_close(&stand_in);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        without_a_server_every_command_ends_with_three,
        ping_tells_serving_from_not_serving,
        ping_waits_for_a_server_that_comes,
        an_error_is_printed_with_all_its_details_and_no_control_character,
        evict_reads_every_page_of_outcomes,
        evict_of_more_than_a_page_has_an_id,
        evict_tells_whether_anything_was_evicted,
        retain_tells_what_is_in_force_and_whether_it_is,
        retain_sends_what_is_given_and_nothing_else,
        sessions_come_from_all_pages_and_stop_at_the_limit,
        what_there_is_can_be_described,
        tokens_go_there_and_back,
        a_pipe_gets_the_text_as_it_was_generated,
        a_generation_is_one_document_or_one_line_each,
        an_interrupted_generation_is_cancelled,
        a_tail_goes_on_after_each_cut_without_duplicate_or_hole,
        what_is_sent_twice_is_printed_once,
        a_tail_survives_the_servers_restart,
        a_ledger_that_is_another_one_ends_a_tail,
        a_hole_is_told_and_ends_a_tail,
        a_tail_ends_with_its_connection_when_told_to,
        a_tail_gives_up_when_the_server_stays_away,
        an_interrupted_tail_leaves_a_whole_document,
        a_closed_pipe_ends_a_tail_quietly,
        an_audit_says_that_receipts_add_up_or_which_one_does_not,
        a_tail_kept_in_a_file_can_be_audited,
    };

    return CHECK_RUN("served", set_up, tear_down, tests);
}
