/* What --help and --print-config print. */
#include "server/options_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "server/options_sinks.h"
#include "server/options_tenants.h"

enum { HELP_COLUMN = 32, HELP_WIDTH = 100 };

/* ---- --help */

static void print_flag(const struct option_row *row)
{
    struct option_name name = option_name(row, OPTION_AS_FLAG);
    const char *value = row->kind == OPTION_UINT ? "N" : row->value;
    int n;

    if (row->kind == OPTION_BOOL || row->kind == OPTION_COMMAND)
        n = printf("  %s", name.text);
    else
        n = printf("  %s=%s", name.text, value);
    if (n >= HELP_COLUMN) {
        putchar('\n');
        n = 0;
    }
    printf("%*s%s\n", HELP_COLUMN - n, "", row->help);
}

static void print_values(const struct option_row *row)
{
    if (row->kind == OPTION_COMMAND)
        return;
    printf("%*s", HELP_COLUMN, "");
    if (row->kind == OPTION_UINT)
        printf("%" PRIu64 " to %" PRIu64 "%s%s, ", row->least, row->most,
            row->value[0] == '\0' ? "" : " ", row->value);
    printf("default %s; %s\n",
        row->standard[0] == '\0' ? "empty" : row->standard,
        option_name(row, OPTION_AS_VARIABLE).text);
}

/* From HELP_COLUMN on, broken between words, to the end of a line. */
static void print_wrapped(const char *text)
{
    size_t column = HELP_COLUMN;

    while (*text != '\0') {
        size_t n = strcspn(text, " ");

        if (column > HELP_COLUMN && column + 1 + n >= HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        column += (size_t)printf(
            "%s%.*s", column > HELP_COLUMN ? " " : "", (int)n, text);
        text += n + (text[n] == ' ');
    }
    putchar('\n');
}

/* As for options, without a flag and a variable. */
static void print_setting(const struct sink_setting *setting)
{
    int n = printf("    %s: %s", setting->name,
        setting->kind == SINK_UINT   ? "N"
        : setting->kind == SINK_BOOL ? "true|false"
                                     : setting->value);

    if (n >= HELP_COLUMN) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", HELP_COLUMN - n, "");
    print_wrapped(setting->help);
    printf("%*s", HELP_COLUMN, "");
    if (setting->kind == SINK_UINT)
        printf("%" PRIu64 " to %" PRIu64 "%s%s, ", setting->least,
            setting->most, setting->value[0] == '\0' ? "" : " ",
            setting->value);
    if (setting->standard == NULL)
        puts("needed");
    else
        printf("default %s\n",
            setting->standard[0] == '\0' ? "empty" : setting->standard);
}

static void print_kinds(void)
{
    puts("\nSinks of receipts stand in the file, as a list `sinks:` of maps "
         "with a name, a kind, and the\n"
         "settings of that kind:\n");
    for (size_t i = 0; i < sink_n_kinds; i++) {
        const struct sink_kind *kind = sink_kinds[i];

        printf("  kind: %s\n", kind->name);
        for (size_t j = 0; j < kind->n_settings; j++)
            print_setting(&kind->settings[j]);
    }
}

static void print_tenants_help(void)
{
    puts("\nTenants with quotas of their own stand in the file, as a list "
         "`tenants:` of maps with a name,\n"
         "soft_blocks and hard_blocks.");
}

void options_print_help(void)
{
    puts("kvpoold serves a language model over gRPC. Its KV cache is a pool "
         "that can be watched\n"
         "and steered, and that leaves a receipt of everything it gives up.\n"
         "\n"
         "Usage: kvpoold [OPTION]...\n"
         "\n"
         "Each option is --name=value or --name value, a switch --name or "
         "--no-name; or it is a variable in\n"
         "the environment, or its name and value stand in the YAML file that "
         "--config names. Flags win over\n"
         "variables, variables over the file.\n");
    for (size_t i = 0; i < N_OPTION_ROWS; i++) {
        print_flag(&option_rows[i]);
        print_values(&option_rows[i]);
    }
    print_tenants_help();
    if (sink_n_kinds > 0)
        print_kinds();
    puts("\nExit code: 0 after an orderly stop, 78 for a bad configuration, "
         "1 for any other failure.");
}

/* ---- --print-config */

/* The character that the three bytes are, if it may not stand in a line of YAML
 * as it is: line breaks of its own, byte order marks, noncharacters. Else 0. */
static unsigned special_character(const char *text)
{
    static const char specials[][4] = {
        "\u2028", "\u2029", "\uFEFF", "\xEF\xBF\xBE", "\xEF\xBF\xBF"};
    static const unsigned characters[] = {
        0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF};

    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        if (memcmp(text, specials[i], 3) == 0)
            return characters[i];
    }
    return 0;
}

/* Text that has no control characters, as it stands between double quotes. */
static void print_escaped(const char *text)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n;) {
        int length = kv_utf8_length(text + i, n - i);
        unsigned special = length == 3 ? special_character(text + i) : 0;

        if (special != 0)
            printf("\\u%04X", special);
        else if (text[i] == '"' || text[i] == '\\')
            printf("\\%c", text[i]);
        else
            fwrite(text + i, 1, (size_t)length, stdout);
        i += (size_t)length;
    }
}

static void print_line(const char *path, uint32_t line)
{
    if (line == 0) {
        puts("default");
        return;
    }
    printf("file ");
    print_escaped(path);
    printf(":%" PRIu32 "\n", line);
}

static void print_source(
    const struct option_row *row, struct option_origin origin, const char *path)
{
    switch (origin.source) {
    case OPTION_DEFAULT:
        puts("default");
        break;
    case OPTION_FILE:
        print_line(path, origin.line);
        break;
    case OPTION_VARIABLE:
        puts(option_name(row, OPTION_AS_VARIABLE).text);
        break;
    case OPTION_FLAG:
        puts("flag");
        break;
    }
}

static void print_sink(const struct option_sink *sink, const char *path)
{
    char number[24];

    printf("  - name: \"%s\"  # ", sink->name);
    print_line(path, sink->line);
    printf("    kind: %s  # ", sink->kind->name);
    print_line(path, sink->line);
    for (size_t i = 0; i < sink->kind->n_settings; i++) {
        const struct sink_setting *setting = &sink->kind->settings[i];
        const char *quote = setting->kind == SINK_TEXT ? "\"" : "";

        printf("    %s: %s", setting->name, quote);
        print_escaped(option_sink_value(sink, i, number));
        printf("%s  # ", quote);
        print_line(path, sink->lines[i]);
    }
}

static void print_sinks(const struct options *options)
{
    printf(OPTIONS_SINKS_KEY ":%s  # ", options->sinks.n == 0 ? " []" : "");
    print_line(options->config, options->sinks.line);
    for (size_t i = 0; i < options->sinks.n; i++)
        print_sink(&options->sinks.list[i], options->config);
}

static void print_tenant(const struct option_tenant *tenant, const char *path)
{
    fputs("  - name: \"", stdout);
    print_escaped(tenant->name);
    fputs("\"  # ", stdout);
    print_line(path, tenant->line);
    printf("    soft_blocks: %" PRIu64 "\n    hard_blocks: %" PRIu64 "\n",
        tenant->quota.soft_blocks, tenant->quota.hard_blocks);
}

static void print_tenants(const struct options *options)
{
    printf(OPTIONS_TENANTS_KEY ":%s  # ", options->tenants.n == 0 ? " []" : "");
    print_line(options->config, options->tenants.line);
    for (size_t i = 0; i < options->tenants.n; i++)
        print_tenant(&options->tenants.list[i], options->config);
}

void options_print_config(const struct options *options)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option_row *row = &option_rows[i];
        bool is_quoted = row->kind == OPTION_TEXT || row->kind == OPTION_LIST;
        char number[24];

        printf("%s: %s", row->name, is_quoted ? "\"" : "");
        print_escaped(option_value(row, options, number));
        printf("%s  # ", is_quoted ? "\"" : "");
        print_source(row, options->origins[i], options->config);
    }
    print_sinks(options);
    print_tenants(options);
}
