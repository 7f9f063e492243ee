#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"
#include "server/options.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define FROM_FILE LIST("kvpoold", "--config=k.yaml")
#define NO_VARIABLES LIST(NULL)

/* Every kind, every form that is allowed. */
static const char sample[] = "# A sample\n"
                             "listen:\n"
                             "  - 127.0.0.1:7440\n"
                             "  - \"[::1]:7440\"  # quoted\n"
                             "model: 'm \xC3\xBC.gguf'\n"
                             "kv_cache_size_mb: 64\n"
                             "\"kv_type\": f32\n"
                             "enable_receipts: true\n"
                             "log_format: \"json\"\n";

static char folder[64];
static struct options options;
static struct kv_error error;

static void set_up(void)
{
    faulty_heap_install();
    memset(&options, 0, sizeof options);
    memset(&error, 0, sizeof error);
    strcpy(folder, "/tmp/kvpool-options.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);
}

static void tear_down(void)
{
    options_fini(&options);
    ck_assert_int_eq(faulty_heap_live(), 0);
    unlink("k.yaml");
    unlink("out.yaml");
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}

static void write_file(const char *text, size_t n)
{
    FILE *file;

    unlink("k.yaml"); /* some file systems flush what is written over */
    file = fopen("k.yaml", "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}

static enum kv_status parse(const char *const *argv, const char *const *env)
{
    int argc = 0;

    while (argv[argc] != NULL)
        argc++;
    options_fini(&options);
    return options_parse(&options, argc, argv, env, &error);
}

static void accepted(const char *text)
{
    write_file(text, strlen(text));
    ck_assert_msg(
        parse(FROM_FILE, NO_VARIABLES) == KV_OK, "%s: %s", text, error.text);
}

static void refused(const char *text, size_t n, const char *message)
{
    write_file(text, n);
    ck_assert_int_eq(parse(FROM_FILE, NO_VARIABLES), KV_INVALID);
    ck_assert_int_eq(error.status, KV_INVALID);
    ck_assert_str_eq(error.text, message);
    ck_assert_ptr_null(options.storage);
}

START_TEST(a_file_sets_options_of_every_kind)
{
    accepted(sample);
    ck_assert_str_eq(options.listen, "127.0.0.1:7440,[::1]:7440");
    ck_assert_str_eq(options.model, "m \xC3\xBC.gguf");
    ck_assert_uint_eq(options.kv_cache_size_mb, 64);
    ck_assert_str_eq(options.kv_type, "f32");
    ck_assert(options.enable_receipts);
    ck_assert_str_eq(options.log_format, "json");
    ck_assert_str_eq(options.config, "k.yaml");
    ck_assert_uint_eq(options.max_batch_size, 8);
}
END_TEST

START_TEST(a_file_may_say_nothing)
{
    static const char *const nothing[] = {"", "\n", "# only this\n", "---\n",
        "---\n...\n", "{}", "\xEF\xBB\xBF", "~\n", "%YAML 1.2\n---\n"};

    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        accepted(nothing[i]);
        ck_assert_uint_eq(options.kv_cache_size_mb, 512);
    }
}
END_TEST

START_TEST(what_is_json_is_fine_too)
{
    accepted("{\"listen\": [\"127.0.0.1:1\", \"unix:/x\"], \"threads\": 3,\n"
             " \"enable_receipts\": true, \"model\": \"\"}\n");
    ck_assert_str_eq(options.listen, "127.0.0.1:1,unix:/x");
    ck_assert_uint_eq(options.threads, 3);
    ck_assert(options.enable_receipts);
}
END_TEST

START_TEST(a_list_is_also_a_text_with_commas)
{
    accepted("listen: 127.0.0.1:1,[::1]:2\n");
    ck_assert_str_eq(options.listen, "127.0.0.1:1,[::1]:2");
    accepted("listen: [unix:/a b]\n");
    ck_assert_str_eq(options.listen, "unix:/a b");
}
END_TEST

/* The strongest source that says anything wins, whatever the others say. */
START_TEST(a_flag_beats_a_variable_beats_the_file_beats_the_default)
{
    static const uint64_t values[] = {0, 1, 2, 3};

    for (int given = 0; given < 8; given++) {
        enum option_source source = given & 4   ? OPTION_FLAG
                                    : given & 2 ? OPTION_VARIABLE
                                    : given & 1 ? OPTION_FILE
                                                : OPTION_DEFAULT;
        const char *text = given & 1 ? "\nthreads: 1\n" : "";
        struct option_origin origin = {0};

        write_file(text, strlen(text));
        ck_assert_int_eq(parse(LIST("kvpoold", "--config", "k.yaml",
                                   given & 4 ? "--threads=3" : "--"),
                             LIST(given & 2 ? "KVPOOL_THREADS=2" : "A=1")),
            KV_OK);
        ck_assert_uint_eq(options.threads, values[source]);
#define FIND(name, ...)                                                        \
    if (strcmp(#name, "threads") == 0)                                         \
        origin = options.origins[i];                                           \
    i++;
        size_t i = 0;
        SERVER_OPTIONS(FIND, FIND, FIND, FIND, FIND)
#undef FIND
        ck_assert_uint_eq(i, N_OPTIONS);
        ck_assert_int_eq(origin.source, source);
        ck_assert_uint_eq(origin.line, source == OPTION_FILE ? 2 : 0);
    }
}
END_TEST

START_TEST(a_stronger_source_beats_texts_and_switches_as_well)
{
    write_file(sample, strlen(sample));
    ck_assert_int_eq(parse(LIST("kvpoold", "--no-enable-receipts",
                               "--model=", "--config=k.yaml"),
                         LIST("KVPOOL_LISTEN=unix:/v", "KVPOOL_KV_TYPE=f16")),
        KV_OK);
    ck_assert(!options.enable_receipts);
    ck_assert_str_eq(options.model, "");
    ck_assert_str_eq(options.listen, "unix:/v");
    ck_assert_str_eq(options.kv_type, "f16");
    ck_assert_str_eq(options.log_format, "json");
}
END_TEST

START_TEST(what_is_overridden_must_be_right_all_the_same)
{
    write_file("threads: x\n", 11);
    ck_assert_int_eq(parse(LIST("kvpoold", "--config=k.yaml", "--threads=1"),
                         LIST("KVPOOL_THREADS=2")),
        KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "k.yaml:1:10: threads:"));
}
END_TEST

START_TEST(the_file_is_named_by_a_flag_or_a_variable)
{
    write_file("threads: 5\n", 11);
    ck_assert_int_eq(
        parse(LIST("kvpoold"), LIST("KVPOOL_CONFIG=k.yaml")), KV_OK);
    ck_assert_uint_eq(options.threads, 5);
    ck_assert_int_eq(parse(FROM_FILE, LIST("KVPOOL_CONFIG=none.yaml")), KV_OK);
    ck_assert_uint_eq(options.threads, 5);
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--config="), LIST("KVPOOL_CONFIG=none.yaml")),
        KV_OK);
    ck_assert_uint_eq(options.threads, 0);
}
END_TEST

/* A file that is refused, and what is said of it. */
struct refusal {
    const char *text, *message;
};

#define THREADS "allowed is a decimal number from 0 to 1024"
#define RECEIPTS "enable_receipts: given "
#define PLAIN ", allowed are plain names and values"
#define LINE "; allowed is one `name: value` a line"
#define HELP "--help lists what is allowed"

static const struct refusal bad_names[] = {
    {"model: m\nthread: 1\n", "k.yaml:2:1: unknown option \"thread\"; did "
                              "you mean threads? " HELP},
    {"zzzzzzzzzz: 1\n", "k.yaml:1:1: unknown option \"zzzzzzzzzz\"; " HELP},
    {"kv-cache-size-mb: 1\n",
        "k.yaml:1:1: unknown option \"kv-cache-size-mb\"; did you mean "
        "kv_cache_size_mb? " HELP},
    {"config: k.yaml\n", "k.yaml:1:1: unknown option \"config\"; " HELP},
    {"help: true\n", "k.yaml:1:1: unknown option \"help\"; " HELP},
    {"<<: {threads: 1}\n", "k.yaml:1:1: unknown option \"<<\"; " HELP},
    {"\"thr\\neads\": 1\n",
        "k.yaml:1:1: unknown option \"thr\\x0aeads\"; did you mean "
        "threads? " HELP},
    {"threads: 1\nmodel: m\nthreads: 1\n",
        "k.yaml:3:1: threads: given a second time, allowed is once; the "
        "first is on line 1"},
};

static const struct refusal bad_values[] = {
    {"threads: x\n", "k.yaml:1:10: threads: given \"x\", " THREADS},
    {"threads:   1025\n", "k.yaml:1:12: threads: given \"1025\", " THREADS},
    {"threads: -1\n", "k.yaml:1:10: threads: given \"-1\", " THREADS},
    {"threads: 0x10\n", "k.yaml:1:10: threads: given \"0x10\", " THREADS},
    {"threads: 1.0\n", "k.yaml:1:10: threads: given \"1.0\", " THREADS},
    {"threads: '1'\n",
        "k.yaml:1:10: threads: given a text in quotes, " THREADS},
    {"threads: |\n  1\n",
        "k.yaml:1:10: threads: given a text in quotes, " THREADS},
    {"threads:\n", "k.yaml:1:9: threads: given nothing, " THREADS},
    {"threads: null\n", "k.yaml:1:10: threads: given nothing, " THREADS},
    {"threads: [1]\n", "k.yaml:1:10: threads: given a list, " THREADS},
    {"threads:\n  a: 1\n", "k.yaml:2:3: threads: given a mapping, " THREADS},
    {"enable_receipts: yes\n",
        "k.yaml:1:18: " RECEIPTS "\"yes\", allowed is true|false"},
    {"enable_receipts: 1\n",
        "k.yaml:1:18: " RECEIPTS "\"1\", allowed is true|false"},
    {"enable_receipts: \"true\"\n",
        "k.yaml:1:18: " RECEIPTS "a text in quotes, allowed is true|false"},
    {"kv_type: f64\n",
        "k.yaml:1:10: kv_type: given \"f64\", allowed is f32|f16|q8_0"},
    {"kv_type:\n",
        "k.yaml:1:9: kv_type: given nothing, allowed is f32|f16|q8_0"},
    {"model:\n",
        "k.yaml:1:7: model: given nothing; empty is \"\", allowed is FILE"},
    {"model: [a, b]\n", "k.yaml:1:8: model: given a list, allowed is FILE"},
    {"model: \"a\\0b\"\n",
        "k.yaml:1:8: model: given a NUL character, allowed is FILE"},
    {"model: \"a\\x07\"\n",
        "k.yaml:1:8: model: given \"a\\x07\", allowed is UTF-8 without "
        "control characters"},
};

static const struct refusal bad_lists[] = {
    {"listen: \"\"\n",
        "k.yaml:1:9: listen: given \"\", allowed is ADDRESS[,ADDRESS]: "
        "where gRPC is served: host:port, [v6]:port or unix:/path"},
    {"listen: []\n", "k.yaml:1:9: listen: given an empty list, allowed is "
                     "ADDRESS[,ADDRESS]"},
    {"listen:\n- a\n- [b]\n",
        "k.yaml:3:3: listen: given a list, allowed is ADDRESS[,ADDRESS]"},
    {"listen:\n- a: b\n", "k.yaml:2:3: listen: given a mapping, allowed is "
                          "ADDRESS[,ADDRESS]"},
    {"listen:\n- a\n-\n",
        "k.yaml:3:2: listen: given nothing, allowed is ADDRESS[,ADDRESS]"},
    {"listen: [a, '']\n",
        "k.yaml:1:13: listen: given \"\", allowed is ADDRESS[,ADDRESS]"},
    {"listen: ['a,b']\n",
        "k.yaml:1:10: listen: given a comma within an item, allowed is "
        "ADDRESS[,ADDRESS]"},
};

static const struct refusal bad_structure[] = {
    {"threads: &a 1\n", "k.yaml:1:10: given an anchor" PLAIN},
    {"&a threads: 1\n", "k.yaml:1:1: given an anchor" PLAIN},
    {"listen: &a [b]\n", "k.yaml:1:9: given an anchor" PLAIN},
    {"model: m\nthreads: *a\n", "k.yaml:2:10: given an alias" PLAIN},
    {"threads: !!int 1\n", "k.yaml:1:10: given a tag" PLAIN},
    {"threads: ! 1\n", "k.yaml:1:10: given a tag" PLAIN},
    {"!!map {threads: 1}\n", "k.yaml:1:1: given a tag" PLAIN},
    {"%TAG ! tag:x\n---\nthreads: 1\n",
        "k.yaml:1:1: given a tag directive" PLAIN},
    {"threads: 1\n---\nmodel: m\n",
        "k.yaml:2:1: given a second document" PLAIN},
    {"threads\n", "k.yaml:1:1: given a single value, allowed is one "
                  "`name: value` a line"},
    {"\n- threads: 1\n", "k.yaml:2:1: given a list, allowed is one "
                         "`name: value` a line"},
    {"? [threads]\n: 1\n", "k.yaml:1:3: given a list as a name, allowed "
                           "is the name of an option"},
    {"{{threads: 1}: 1}\n",
        "k.yaml:1:2: given a mapping as a name, allowed is the name of an "
        "option"},
    {"threads: 1\n\tmodel: m\n",
        "k.yaml:2:1: given what is no YAML: found a tab character that "
        "violates indentation" LINE},
    {"model: 'm\n", "k.yaml:2:1: given what is no YAML: found unexpected "
                    "end of stream" LINE},
    {"model: a: b\n", "k.yaml:1:9: given what is no YAML: mapping values "
                      "are not allowed in this context" LINE},
};

static const struct refusal bad_characters[] = {
    {"model: \xC3\xBC\xEF\xBF\xBE\n",
        "k.yaml:1:9: given what is no YAML: control characters are not "
        "allowed" LINE},
    {"threads: 1\nmodel: \xC3\xBC\xFF\n",
        "k.yaml:2:9: given the byte 0xff, allowed is UTF-8 without control "
        "characters"},
    {"model: \xC3", "k.yaml:1:8: given the byte 0xc3, allowed is UTF-8 "
                    "without control characters"},
    {"model: \x1B[2J\n", "k.yaml:1:8: given the byte 0x1b, allowed is "
                         "UTF-8 without control characters"},
};

static void refuse_all(const struct refusal *bad, size_t n)
{
    for (size_t i = 0; i < n; i++)
        refused(bad[i].text, strlen(bad[i].text), bad[i].message);
}
#define REFUSE_ALL(bad) refuse_all(bad, sizeof(bad) / sizeof *(bad))

START_TEST(every_refusal_says_where_what_was_given_and_what_is_allowed)
{
    REFUSE_ALL(bad_names);
    REFUSE_ALL(bad_values);
    REFUSE_ALL(bad_lists);
    REFUSE_ALL(bad_structure);
    REFUSE_ALL(bad_characters);
    refused("\xFF\xFEt\0h\0", 6,
        "k.yaml:1:1: given the byte 0xff, allowed is UTF-8 without control "
        "characters");
    refused("threads: 1\0", 11,
        "k.yaml:1:11: given the byte 0x00, allowed is UTF-8 without control "
        "characters");
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_named_with_the_reason)
{
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--config=none.yaml"), NO_VARIABLES), KV_IO);
    ck_assert_str_eq(error.text,
        "none.yaml: the configuration file cannot be read: No such file or "
        "directory");
    ck_assert_int_eq(parse(LIST("kvpoold", "--config=."), NO_VARIABLES), KV_IO);
    ck_assert_str_eq(
        error.text, ".: the configuration file cannot be read: Is a directory");
}
END_TEST

START_TEST(a_file_of_one_mebibyte_is_read_and_none_that_is_larger)
{
    static char text[(1 << 20) + 1];

    memset(text, '\n', sizeof text);
    memcpy(text + sizeof text - 12, "threads: 9\n", 11);
    write_file(text, sizeof text - 1);
    ck_assert_int_eq(parse(FROM_FILE, NO_VARIABLES), KV_OK);
    ck_assert_uint_eq(options.threads, 9);
    refused(text, sizeof text,
        "k.yaml: given more than 1048576 bytes, allowed are 1048576");
}
END_TEST

START_TEST(nesting_ends_at_the_first_level_that_is_too_deep)
{
    static char text[1 << 20];

    memset(text, '[', sizeof text);
    refused(text, sizeof text,
        "k.yaml:1:1: given a list, allowed is one `name: value` a line");
    memcpy(text, "listen: ", 8);
    refused(text, sizeof text,
        "k.yaml:1:10: listen: given a list, allowed is ADDRESS[,ADDRESS]");
}
END_TEST

START_TEST(a_long_path_loses_its_beginning_and_never_the_place)
{
    ck_assert_int_eq(mkdir("\xC3\xBC", 0700), 0);
    write_file("threads: x\n", 11);
    for (int i = 0; i < 8; i++) {
        char flag[600];

        strcpy(flag, "--config=");
        while (strlen(flag) < 500)
            strcat(flag, "\xC3\xBC/../");
        sprintf(flag + strlen(flag), "%.*sk.yaml", i, "////////");
        ck_assert_int_eq(
            parse(LIST("kvpoold", flag), NO_VARIABLES), KV_INVALID);
        ck_assert(kv_utf8_valid(error.text, strlen(error.text)));
        ck_assert_int_eq(strncmp(error.text, "...", 3), 0);
        ck_assert_ptr_nonnull(strstr(error.text,
            "/k.yaml:1:10: threads: given \"x\", allowed is a decimal"));
    }
    ck_assert_int_eq(rmdir("\xC3\xBC"), 0);
}
END_TEST

START_TEST(commands_are_flags_without_a_value_and_nothing_else)
{
    ck_assert_int_eq(parse(LIST("kvpoold", "--check-config", "--print-config"),
                         NO_VARIABLES),
        KV_OK);
    ck_assert(options.check_config && options.print_config && !options.help);
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--check-config=true"), NO_VARIABLES),
        KV_INVALID);
    ck_assert_str_eq(
        error.text, "--check-config: given \"true\", allowed is no value");
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--no-print-config"), NO_VARIABLES), KV_INVALID);
    ck_assert_int_eq(
        parse(LIST("kvpoold"), LIST("KVPOOL_CHECK_CONFIG=1")), KV_INVALID);
    ck_assert_ptr_nonnull(strstr(error.text, "unknown environment variable"));
}
END_TEST

START_TEST(a_failed_allocation_leaves_everything_as_it_was)
{
    int calls;

    write_file(sample, strlen(sample));
    faulty_heap_install();
    ck_assert_int_eq(parse(FROM_FILE, NO_VARIABLES), KV_OK);
    calls = faulty_heap_calls();
    ck_assert_int_ge(calls, 9);
    for (int i = 0; i < calls; i++) {
        options_fini(&options);
        faulty_heap_fail_at(i);
        ck_assert_int_eq(
            options_parse(&options, 2, FROM_FILE, NO_VARIABLES, &error),
            KV_NO_MEMORY);
        ck_assert_ptr_nonnull(strstr(error.text, "out of memory"));
        ck_assert_ptr_null(options.storage);
        ck_assert_int_eq(faulty_heap_live(), 0);
        faulty_heap_fail_at(-1);
    }
}
END_TEST

/* ---- --print-config */

static void print_to_file(void)
{
    int file, saved;

    unlink("out.yaml");
    file = open("out.yaml", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    fflush(stdout);
    saved = dup(STDOUT_FILENO);
    ck_assert_int_ge(dup2(file, STDOUT_FILENO), 0);
    options_print_config(&options);
    fflush(stdout);
    ck_assert_int_ge(dup2(saved, STDOUT_FILENO), 0);
    close(saved);
    close(file);
}

/* What is printed now, read again, is the same as now. */
static void comes_back(void)
{
    uint8_t before[32], after[32];

    print_to_file();
    options_digest(&options, before);
    ck_assert_msg(
        parse(LIST("kvpoold", "--config=out.yaml"), NO_VARIABLES) == KV_OK,
        "%s", error.text);
    options_digest(&options, after);
    ck_assert_mem_eq(before, after, sizeof before);
}

START_TEST(what_is_printed_is_a_file_with_the_same_values)
{
    static const char *const models[] = {"", "a", "~", "null", "true", "1",
        "a: b", "a #b", "- a", "\"'\\", "\\n", "%TAG", " a ", "\xC3\xBC",
        "\xE2\x80\xA8\xE2\x80\xA9", "\xEF\xBB\xBF", "a\xEF\xBF\xBE\xEF\xBF\xBF",
        "\xF0\x9F\xBF\xBE", "&a", "*a", "!a", "[a, b]", "{}", "@", "`"};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        write_file(sample, strlen(sample));
        ck_assert_int_eq(
            parse(LIST("kvpoold", "--config=k.yaml", "--model", models[i],
                      "--listen=[::1]:1,unix:/a b"),
                LIST("KVPOOL_RECEIPTS_LOG=0", "KVPOOL_THREADS=0007")),
            KV_OK);
        comes_back();
        ck_assert_str_eq(options.model, models[i]);
        ck_assert_str_eq(options.listen, "[::1]:1,unix:/a b");
        ck_assert_uint_eq(options.threads, 7);
        ck_assert(!options.receipts_log && options.enable_receipts);
    }
}
END_TEST

START_TEST(each_printed_value_names_its_source)
{
    static const char *const lines[] = {
        "listen: \"127.0.0.1:7440,[::1]:7440\"  # file k.yaml:3\n",
        "kv_cache_size_mb: 64  # file k.yaml:6\n",
        "threads: 3  # KVPOOL_THREADS\n", "kv_type: f16  # flag\n",
        "enable_receipts: true  # file k.yaml:8\n",
        "block_tokens: 16  # default\n"};
    char text[8192] = "";
    FILE *file;

    write_file(sample, strlen(sample));
    ck_assert_int_eq(parse(LIST("kvpoold", "--config=k.yaml", "--kv-type=f16"),
                         LIST("KVPOOL_THREADS=3")),
        KV_OK);
    print_to_file();
    file = fopen("out.yaml", "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_lt(fread(text, 1, sizeof text - 1, file), sizeof text - 1);
    fclose(file);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        ck_assert_msg(
            strstr(text, lines[i]) != NULL, "no %s in:\n%s", lines[i], text);
    ck_assert_ptr_null(strstr(text, "config:"));
}
END_TEST

/* ---- hostile files */

static uint32_t draw(uint32_t *seed, uint32_t n)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed % n;
}

/* Replaces a piece of text by another, of which there is room for 16 bytes. */
static size_t mutate(char *text, size_t n, uint32_t *seed)
{
    static const char *const pieces[] = {"[", "]", "{", "}", ": ", "\n- ",
        "&a ", "*a", "!!x ", "\n---\n", "\n...\n", "\"", "'", "|", ">\n", " #",
        "%", "\t", "\xC2\x85", "\xE2\x80\xA8", "? ", "\xFF", ",", "\n", "\\x",
        "\r", "<<", "\xEF\xBB\xBF", "\nthreads: ", "~", "99999999999999999999"};
    const char *piece = pieces[draw(seed, sizeof pieces / sizeof *pieces)];
    char byte[2] = {(char)draw(seed, 256), '\0'};
    size_t at = draw(seed, (uint32_t)n + 1), gone = draw(seed, 4);
    size_t length;

    piece = draw(seed, 3) == 0 ? byte : piece;
    length = strlen(piece);
    gone = gone > n - at ? n - at : gone;
    memmove(text + at + length, text + at + gone, n - at - gone);
    memcpy(text + at, piece, length);
    return n - gone + length;
}

START_TEST(a_damaged_file_is_refused_in_one_line_or_means_what_is_printed)
{
    uint32_t seed = 20;
    int n_accepted = 0, n_rounds = 2000;

    for (int round = 0; round < n_rounds; round++) {
        char text[sizeof sample + 32 * 24];
        size_t n = sizeof sample - 1;
        enum kv_status status;

        memcpy(text, sample, n);
        for (uint32_t i = 1 + draw(&seed, draw(&seed, 8) == 0 ? 32 : 3); i > 0;
             i--)
            n = mutate(text, n, &seed);
        write_file(text, n);
        status = parse(FROM_FILE, NO_VARIABLES);
        if (status == KV_OK) {
            n_accepted++;
            comes_back();
            continue;
        }
        ck_assert_int_eq(status, KV_INVALID);
        ck_assert_int_eq(strncmp(error.text, "k.yaml:", 7), 0);
        ck_assert(kv_utf8_valid(error.text, strlen(error.text)));
        ck_assert(!kv_utf8_has_control(error.text, strlen(error.text)));
        ck_assert_int_eq(faulty_heap_live(), 0);
    }
    ck_assert_int_gt(n_accepted, n_rounds / 50);
    ck_assert_int_lt(n_accepted, n_rounds / 2);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_file_sets_options_of_every_kind,
        a_file_may_say_nothing, what_is_json_is_fine_too,
        a_list_is_also_a_text_with_commas,
        a_flag_beats_a_variable_beats_the_file_beats_the_default,
        a_stronger_source_beats_texts_and_switches_as_well,
        what_is_overridden_must_be_right_all_the_same,
        the_file_is_named_by_a_flag_or_a_variable,
        every_refusal_says_where_what_was_given_and_what_is_allowed,
        a_file_that_cannot_be_read_is_named_with_the_reason,
        a_file_of_one_mebibyte_is_read_and_none_that_is_larger,
        nesting_ends_at_the_first_level_that_is_too_deep,
        a_long_path_loses_its_beginning_and_never_the_place,
        commands_are_flags_without_a_value_and_nothing_else,
        a_failed_allocation_leaves_everything_as_it_was,
        what_is_printed_is_a_file_with_the_same_values,
        each_printed_value_names_its_source,
        a_damaged_file_is_refused_in_one_line_or_means_what_is_printed};

    return CHECK_RUN("options_file", set_up, tear_down, tests);
}
