#include "base/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define LINE_BYTES 4096

static _Atomic int minimum = KV_LOG_INFO;
static _Atomic int style = KV_LOG_LOGFMT;
static _Atomic int out_fd = STDERR_FILENO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *const format_names[] = {"logfmt", "json"};

/* The line under construction; what does not fit is left out. */
struct line {
    char bytes[LINE_BYTES];
    size_t n;
};

void kv_log_set_level(enum kv_log_level level)
{
    minimum = level;
}

void kv_log_set_format(enum kv_log_format format)
{
    style = format;
}

void kv_log_set_fd(int fd)
{
    out_fd = fd;
}

static int find_name(const char *const *names, int n_names, const char *name)
{
    for (int i = 0; i < n_names; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

bool kv_log_level_parse(const char *name, enum kv_log_level *out)
{
    int level = find_name(level_names, 4, name);

    if (level >= 0)
        *out = (enum kv_log_level)level;
    return level >= 0;
}

bool kv_log_format_parse(const char *name, enum kv_log_format *out)
{
    int format = find_name(format_names, 2, name);

    if (format >= 0)
        *out = (enum kv_log_format)format;
    return format >= 0;
}

static void put(struct line *line, const char *text, size_t n)
{
    size_t room = sizeof line->bytes - 4 - line->n; /* for "}\n" */

    if (n > room)
        n = room;
    memcpy(line->bytes + line->n, text, n);
    line->n += n;
}

__attribute__((format(printf, 2, 3))) static void putf(
    struct line *line, const char *format, ...)
{
    char text[64];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(line, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* Both formats escape alike: quotes, backslashes and control characters. */
static void put_quoted(struct line *line, const char *text)
{
    put(line, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\')
            putf(line, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            putf(line, "\\u%04x", c);
        else
            put(line, text, 1);
    }
    put(line, "\"", 1);
}

static bool is_bare(const char *text)
{
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++)
        if ((unsigned char)*text <= 0x20 || *text == '"' || *text == '=' ||
            *text == '\\' || *text == 0x7F)
            return false;
    return true;
}

static void put_key(struct line *line, bool json, const char *key)
{
    if (line->n > 0)
        put(line, json ? "," : " ", 1);
    else if (json)
        put(line, "{", 1);
    if (json)
        putf(line, "\"%s\":", key);
    else
        putf(line, "%s=", key);
}

static void put_text(
    struct line *line, bool json, const char *key, const char *text)
{
    put_key(line, json, key);
    if (!json && is_bare(text))
        put(line, text, strlen(text));
    else
        put_quoted(line, text);
}

static void put_field(
    struct line *line, bool json, const struct kv_log_field *field)
{
    if (field->kind == KV_LOG_KIND_TEXT) {
        put_text(line, json, field->key,
            field->value.text != NULL ? field->value.text : "");
        return;
    }
    put_key(line, json, field->key);
    if (field->kind == KV_LOG_KIND_INT)
        putf(line, "%" PRId64, field->value.integer);
    else if (field->kind == KV_LOG_KIND_UINT)
        putf(line, "%" PRIu64, field->value.unsigned_integer);
    else if (field->kind == KV_LOG_KIND_BOOL)
        putf(line, "%s", field->value.boolean ? "true" : "false");
    else if (isfinite(field->value.real))
        putf(line, "%.6g", field->value.real);
    else
        putf(line, "null");
}

static void put_time(struct line *line, bool json)
{
    int64_t now = kv_clock_wall_ns();
    time_t seconds = (time_t)(now / KV_NS_PER_S);
    struct tm utc;
    char day[32], text[48];

    gmtime_r(&seconds, &utc);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text, sizeof text, "%s.%03dZ", day,
        (int)(now % KV_NS_PER_S / KV_NS_PER_MS));
    put_text(line, json, "time", text);
}

void kv_log_fields(enum kv_log_level level, const char *target,
    const char *message, const struct kv_log_field *fields)
{
    struct line line = {.n = 0};
    bool json = style == KV_LOG_JSON;
    ssize_t written;

    if ((int)level < minimum)
        return;
    put_time(&line, json);
    put_text(&line, json, "level", level_names[level]);
    put_text(&line, json, "target", target);
    put_text(&line, json, "msg", message);
    for (; fields->kind != KV_LOG_KIND_END; fields++)
        put_field(&line, json, fields);
    memcpy(line.bytes + line.n, json ? "}\n" : "\n", 2);
    line.n += json ? 2 : 1;
    written = write(out_fd, line.bytes, line.n);
    (void)written; /* there is nobody left to tell */
}

bool kv_log_is_due(uint64_t n_times)
{
    return (n_times & (n_times - 1)) == 0;
}
