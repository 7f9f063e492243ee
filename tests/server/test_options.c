#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "server/options.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_FLAGS LIST("kvpoold")
#define NO_VARIABLES LIST(NULL)

static struct options options;
static struct kv_error error;

static void set_up(void)
{
    faulty_heap_install();
    memset(&options, 0, sizeof options);
    memset(&error, 0, sizeof error);
}

static enum kv_status parse(const char *const *argv, const char *const *env)
{
    int argc = 0;

    while (argv[argc] != NULL)
        argc++;
    options_fini(&options);
    return options_parse(&options, argc, argv, env, &error);
}

static void tear_down(void)
{
    options_fini(&options);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

/* Refused with a message of one line that has each of the n parts. */
static void refused(
    const char *const *argv, const char *const *env, const char *const *parts)
{
    ck_assert_int_eq(parse(argv, env), KV_INVALID);
    ck_assert_int_eq(error.status, KV_INVALID);
    ck_assert(kv_utf8_valid(error.text, strlen(error.text)));
    ck_assert(!kv_utf8_has_control(error.text, strlen(error.text)));
    for (; *parts != NULL; parts++)
        ck_assert_msg(strstr(error.text, *parts) != NULL, "no %s in: %s",
            *parts, error.text);
    ck_assert_ptr_null(options.storage);
}

START_TEST(without_flags_and_variables_the_table_decides)
{
    ck_assert_int_eq(parse(NO_FLAGS, NO_VARIABLES), KV_OK);
    ck_assert_str_eq(options.listen, "127.0.0.1:7440");
    ck_assert_str_eq(options.model, "");
    ck_assert_uint_eq(options.kv_cache_size_mb, 512);
    ck_assert_uint_eq(options.max_batch_size, 8);
    ck_assert_str_eq(options.kv_type, "f16");
    ck_assert(!options.enable_receipts);
    ck_assert(options.receipts_log);
    ck_assert(!options.help && !options.version);
}
END_TEST

START_TEST(a_flag_wins_over_a_variable_and_a_variable_over_the_default)
{
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--threads=3"),
            LIST("KVPOOL_THREADS=2", "KVPOOL_COMPUTE_NICE=7", "THREADS=9")),
        KV_OK);
    ck_assert_uint_eq(options.threads, 3);
    ck_assert_uint_eq(options.compute_nice, 7);
    ck_assert_uint_eq(options.max_sessions, 100000);
}
END_TEST

START_TEST(no_option_is_given_twice_in_one_place)
{
    refused(LIST("kvpoold", "--threads=3", "--threads", "5"), NO_VARIABLES,
        LIST("--threads:", "\"3\"", "\"5\"", "allowed is one"));
    refused(LIST("kvpoold", "--threads=3", "--threads=3"), NO_VARIABLES,
        LIST("--threads:", "given twice"));
    refused(LIST("kvpoold", "--enable-receipts", "--no-enable-receipts"),
        NO_VARIABLES, LIST("--no-enable-receipts:", "\"true\"", "\"false\""));
    refused(LIST("kvpoold", "--listen=a:1", "--listen=b:1"), NO_VARIABLES,
        LIST("--listen:", "\"a:1\"", "\"b:1\"", "with commas"));
    refused(LIST("kvpoold", "--config=a", "--config=b"), NO_VARIABLES,
        LIST("--config:", "\"a\"", "\"b\""));
    refused(LIST("kvpoold"), LIST("KVPOOL_THREADS=2", "KVPOOL_THREADS=3"),
        LIST("KVPOOL_THREADS:", "\"2\"", "\"3\""));
}
END_TEST

START_TEST(a_second_model_is_refused)
{
    refused(
        LIST("kvpoold", "--model=a.gguf", "--threads=2", "--model", "b.gguf"),
        NO_VARIABLES, LIST("--model", "given 2 models", "allowed is one"));
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--model=a.gguf"), LIST("KVPOOL_MODEL=b.gguf")),
        KV_OK);
    ck_assert_str_eq(options.model, "a.gguf");
}
END_TEST

START_TEST(a_value_follows_its_flag_with_or_without_an_equals_sign)
{
    ck_assert_int_eq(parse(LIST("kvpoold", "--listen", "[::1]:0", "--model=a=b",
                               "--kv-type", "f32", "--"),
                         NO_VARIABLES),
        KV_OK);
    ck_assert_str_eq(options.listen, "[::1]:0");
    ck_assert_str_eq(options.model, "a=b");
    ck_assert_str_eq(options.kv_type, "f32");
}
END_TEST

START_TEST(a_switch_takes_its_forms_and_no_other)
{
    static const struct {
        const char *flag;
        bool on;
    } good[] = {{"--enable-receipts", true}, {"--no-enable-receipts", false},
        {"--enable-receipts=true", true}, {"--enable-receipts=false", false},
        {"--enable-receipts=1", true}, {"--enable-receipts=0", false}};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_int_eq(
            parse(LIST("kvpoold", good[i].flag), NO_VARIABLES), KV_OK);
        ck_assert_int_eq(options.enable_receipts, good[i].on);
    }
    refused(LIST("kvpoold", "--enable-receipts=maybe"), NO_VARIABLES,
        LIST("--enable-receipts:", "\"maybe\"", "true|false|1|0"));
    refused(LIST("kvpoold", "--enable-receipts="), NO_VARIABLES,
        LIST("--enable-receipts:", "\"\""));
    refused(LIST("kvpoold", "--no-enable-receipts=true"), NO_VARIABLES,
        LIST("--no-enable-receipts:", "\"true\"", "no value"));
    refused(LIST("kvpoold", "--enable-receipts", "true"), NO_VARIABLES,
        LIST("unexpected argument", "\"true\""));
    refused(NO_FLAGS, LIST("KVPOOL_ENABLE_RECEIPTS=yes"),
        LIST("KVPOOL_ENABLE_RECEIPTS:", "\"yes\"", "true|false|1|0"));
}
END_TEST

START_TEST(a_number_is_decimal_digits_within_its_range)
{
    static const char *const bad[] = {"", " 1", "1 ", "1 2", "-1", "+1", "0x10",
        "1e3", "1.0", "12MB", "1025", "18446744073709551616",
        "99999999999999999999999999999999", "\xC2\xB2", "\xFF"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char flag[64], variable[64];

        snprintf(flag, sizeof flag, "--threads=%s", bad[i]);
        snprintf(variable, sizeof variable, "KVPOOL_THREADS=%s", bad[i]);
        refused(LIST("kvpoold", flag), NO_VARIABLES,
            LIST("--threads: given \"", "from 0 to 1024"));
        refused(NO_FLAGS, LIST(variable),
            LIST("KVPOOL_THREADS: given \"", "from 0 to 1024"));
    }
    refused(LIST("kvpoold", "--threads", "-1"), NO_VARIABLES,
        LIST("--threads: given \"-1\""));
    refused(LIST("kvpoold", "--kv-cache-size-mb=0"), NO_VARIABLES,
        LIST("--kv-cache-size-mb: given \"0\"", "from 1 to 16777216"));
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--threads=1024", "--kv-cache-size-mb=1"),
            NO_VARIABLES),
        KV_OK);
    ck_assert_uint_eq(options.threads, 1024);
    ck_assert_uint_eq(options.kv_cache_size_mb, 1);
}
END_TEST

START_TEST(a_choice_is_one_of_its_words)
{
    static const char *const bad[] = {
        "", "f", "f64", "F16", "f16|f32", "|", "f16 "};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char flag[64];

        snprintf(flag, sizeof flag, "--kv-type=%s", bad[i]);
        refused(LIST("kvpoold", flag), NO_VARIABLES,
            LIST("--kv-type: given \"", "allowed is f32|f16"));
    }
}
END_TEST

START_TEST(a_text_is_utf8_without_control_characters)
{
    refused(LIST("kvpoold", "--model=a\nb"), NO_VARIABLES,
        LIST("--model:", "a\\x0ab", "control"));
    refused(LIST("kvpoold", "--model=a\xFF"), NO_VARIABLES,
        LIST("--model:", "a\\xff", "UTF-8"));
    refused(LIST("kvpoold", "--listen="), NO_VARIABLES,
        LIST("--listen: given \"\"", "host:port"));
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--model="), LIST("KVPOOL_MODEL=x.gguf")), KV_OK);
    ck_assert_str_eq(options.model, "");
}
END_TEST

START_TEST(an_unknown_name_is_refused_and_the_nearest_one_named)
{
    refused(LIST("kvpoold", "--thread=2"), NO_VARIABLES,
        LIST("unknown option \"--thread\"", "did you mean --threads?"));
    refused(LIST("kvpoold", "--kv_cache_size_mb=2"), NO_VARIABLES,
        LIST("did you mean --kv-cache-size-mb?"));
    refused(LIST("kvpoold", "-threads=2"), NO_VARIABLES,
        LIST("\"-threads\"", "did you mean --threads?"));
    refused(LIST("kvpoold", "--no-enable-receipt"), NO_VARIABLES,
        LIST("did you mean --enable-receipts?"));
    refused(LIST("kvpoold", "--no-threads"), NO_VARIABLES,
        LIST("unknown option \"--no-threads\""));
    refused(LIST("kvpoold", "--zzzzzzzzzz"), NO_VARIABLES,
        LIST("unknown option \"--zzzzzzzzzz\"", "--help"));
    ck_assert_ptr_null(strstr(error.text, "did you mean"));
    refused(NO_FLAGS, LIST("KVPOOL_MAX_BATCHSIZE=4"),
        LIST("environment variable \"KVPOOL_MAX_BATCHSIZE\"",
            "did you mean KVPOOL_MAX_BATCH_SIZE?"));
    refused(NO_FLAGS, LIST("KVPOOL_=4"), LIST("\"KVPOOL_\""));
    refused(NO_FLAGS, LIST("KVPOOL_threads=4"),
        LIST("\"KVPOOL_threads\"", "did you mean KVPOOL_THREADS?"));
}
END_TEST

START_TEST(variables_of_others_are_left_alone)
{
    ck_assert_int_eq(
        parse(NO_FLAGS,
            LIST("KVPOOL_SERVER=127.0.0.1:1", "KVPOOL_MODELS=/models",
                "KVPOOL_SERVICE_HOST=10.0.0.1", "KVPOOL_SERVICE_PORT_GRPC=7440",
                "KVPOOL_PORT=tcp://10.0.0.1:7440",
                "KVPOOL_PORT_7440_TCP_ADDR=10.0.0.1",
                "KVPOOL_HEADLESS_SERVICE_HOST=10.0.0.2", "KVPOOLX=1", "KVPOOL_",
                "PATH=/bin", "=")),
        KV_OK);
    refused(NO_FLAGS, LIST("KVPOOL_PORT=7441"), LIST("\"KVPOOL_PORT\""));
}
END_TEST

START_TEST(a_flag_that_needs_a_value_does_not_take_the_next_flag)
{
    refused(LIST("kvpoold", "--threads"), NO_VARIABLES,
        LIST("--threads: no value given"));
    refused(LIST("kvpoold", "--model", "--enable-receipts"), NO_VARIABLES,
        LIST("--model: no value given", "--model=FILE"));
    refused(LIST("kvpoold", "--model", "--"), NO_VARIABLES,
        LIST("--model: no value given"));
}
END_TEST

START_TEST(nothing_may_stand_beside_the_flags)
{
    refused(LIST("kvpoold", "model.gguf"), NO_VARIABLES,
        LIST("unexpected argument \"model.gguf\""));
    refused(LIST("kvpoold", "--", "--threads=1"), NO_VARIABLES,
        LIST("unexpected argument \"--threads=1\""));
    refused(LIST("kvpoold", ""), NO_VARIABLES, LIST("unexpected argument"));
    refused(LIST("kvpoold", "-"), NO_VARIABLES, LIST("unexpected argument"));
    refused(LIST("kvpoold", "---"), NO_VARIABLES, LIST("unknown option"));
    refused(LIST("kvpoold", "--=1"), NO_VARIABLES, LIST("unknown option"));
    ck_assert_int_eq(parse(LIST("kvpoold", "--"), NO_VARIABLES), KV_OK);
}
END_TEST

START_TEST(a_long_value_is_cut_in_the_message_and_no_byte_of_it_escapes)
{
    static char flag[100000];

    strcpy(flag, "--threads=");
    for (size_t i = strlen(flag); i < sizeof flag - 1; i++)
        flag[i] = (char)(1 + i % 255);
    refused(LIST("kvpoold", flag), NO_VARIABLES,
        LIST("--threads:", "...\"", "from 0 to 1024"));
    memset(flag, '-', sizeof flag - 1);
    refused(LIST("kvpoold", flag), NO_VARIABLES, LIST("unknown option"));
    memset(flag + 2, 'n', sizeof flag - 3);
    refused(LIST("kvpoold", flag), NO_VARIABLES, LIST("unknown option"));
}
END_TEST

START_TEST(help_and_version_win_over_whatever_is_wrong)
{
    ck_assert_int_eq(parse(LIST("kvpoold", "--threads=x", "--help"),
                         LIST("KVPOOL_NONSENSE=1")),
        KV_OK);
    ck_assert(options.help);
    ck_assert_int_eq(
        parse(LIST("kvpoold", "--version", "stray"), NO_VARIABLES), KV_OK);
    ck_assert(options.version && !options.help);
    refused(LIST("kvpoold", "--", "--help"), NO_VARIABLES,
        LIST("unexpected argument"));
}
END_TEST

START_TEST(no_arguments_at_all_are_the_defaults)
{
    const char *const *nothing = LIST(NULL);

    ck_assert_int_eq(
        options_parse(&options, 0, nothing, nothing, &error), KV_OK);
    ck_assert_uint_eq(options.kv_cache_size_mb, 512);
}
END_TEST

START_TEST(a_failed_allocation_leaves_everything_as_it_was)
{
    int calls;

    ck_assert_int_eq(parse(NO_FLAGS, NO_VARIABLES), KV_OK);
    calls = faulty_heap_calls();
    for (int i = 0; i < calls; i++) {
        options_fini(&options);
        faulty_heap_fail_at(i);
        ck_assert_int_eq(
            options_parse(&options, 1, NO_FLAGS, NO_VARIABLES, &error),
            KV_NO_MEMORY);
        ck_assert_int_eq(error.status, KV_NO_MEMORY);
        ck_assert_ptr_null(options.storage);
        ck_assert_int_eq(faulty_heap_live(), 0);
        faulty_heap_fail_at(-1);
    }
}
END_TEST

START_TEST(the_digest_is_that_of_the_values_wherever_they_come_from)
{
    uint8_t first[32], second[32];

    ck_assert_int_eq(
        parse(LIST("kvpoold", "--threads=2"), NO_VARIABLES), KV_OK);
    options_digest(&options, first);
    ck_assert_int_eq(parse(NO_FLAGS, LIST("KVPOOL_THREADS=02")), KV_OK);
    options_digest(&options, second);
    ck_assert_mem_eq(first, second, 32);
    for (size_t i = 0; i < 4; i++) {
        static const char *const others[] = {
            "--threads=3", "--kv-type=f32", "--enable-receipts", "--model=m"};

        ck_assert_int_eq(
            parse(LIST("kvpoold", others[i]), LIST("KVPOOL_THREADS=2")), KV_OK);
        options_digest(&options, second);
        ck_assert_mem_ne(first, second, 32);
    }
}
END_TEST

/* What --help prints. */
static size_t help_text(char *text, size_t size)
{
    FILE *file = tmpfile();
    size_t n;

    ck_assert_ptr_nonnull(file);
    fflush(stdout);
    ck_assert_int_ge(dup2(fileno(file), STDOUT_FILENO), 0);
    options_print_help();
    fflush(stdout);
    rewind(file);
    n = fread(text, 1, size - 1, file);
    text[n] = '\0';
    fclose(file);
    return n;
}

START_TEST(help_has_every_option_with_its_variable_in_100_columns)
{
#define NAME(name, ...) #name,
    static const char *const names[] = {
        SERVER_OPTIONS(NAME, NAME, NAME, NAME, NAME)};
#undef NAME
    static char text[32768];
    size_t n = help_text(text, sizeof text);

    ck_assert_uint_lt(n, sizeof text - 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char flag[80] = "  --", variable[80] = "KVPOOL_";

        for (size_t k = 0; names[i][k] != '\0'; k++) {
            flag[4 + k] = names[i][k] == '_' ? '-' : names[i][k];
            variable[7 + k] =
                (char)(names[i][k] == '_' ? '_' : names[i][k] - 32);
        }
        ck_assert_ptr_nonnull(strstr(text, flag));
        ck_assert_ptr_nonnull(strstr(text, variable));
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        ck_assert_msg(strlen(line) <= 100, "too wide: %s", line);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {without_flags_and_variables_the_table_decides,
        a_flag_wins_over_a_variable_and_a_variable_over_the_default,
        no_option_is_given_twice_in_one_place, a_second_model_is_refused,
        a_value_follows_its_flag_with_or_without_an_equals_sign,
        a_switch_takes_its_forms_and_no_other,
        a_number_is_decimal_digits_within_its_range,
        a_choice_is_one_of_its_words, a_text_is_utf8_without_control_characters,
        an_unknown_name_is_refused_and_the_nearest_one_named,
        variables_of_others_are_left_alone,
        a_flag_that_needs_a_value_does_not_take_the_next_flag,
        nothing_may_stand_beside_the_flags,
        a_long_value_is_cut_in_the_message_and_no_byte_of_it_escapes,
        help_and_version_win_over_whatever_is_wrong,
        no_arguments_at_all_are_the_defaults,
        a_failed_allocation_leaves_everything_as_it_was,
        the_digest_is_that_of_the_values_wherever_they_come_from,
        help_has_every_option_with_its_variable_in_100_columns};

    return CHECK_RUN("options", set_up, tear_down, tests);
}
