#include "cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/utf8.h"

#define ESCAPE_BYTES 8 /* the longest: "\u202e" and a NUL */

static uint32_t decode(const char *text, int length)
{
    static const unsigned char masks[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t point = (unsigned char)text[0] & masks[length];

    for (int i = 1; i < length; i++)
        point = point << 6 | ((unsigned char)text[i] & 0x3F);
    return point;
}

/* Line and paragraph separators, and what turns the direction of writing: a
 * name could show as another one. */
static bool deceives(uint32_t point)
{
    return point == 0x200E || point == 0x200F || point == 0x061C ||
           (point >= 0x2028 && point <= 0x202E) ||
           (point >= 0x2066 && point <= 0x2069);
}

static bool is_harmless(uint32_t point, enum text_style style)
{
    if (style == TEXT_PROSE && (point == '\n' || point == '\t'))
        return true;
    if (style == TEXT_NAME && point == '\\')
        return false;
    return point >= 0x20 && !(point >= 0x7F && point <= 0x9F) &&
           !deceives(point);
}

/* The first character of text as it may be shown, in out; its length there.
 * *n_read is its length in text. */
static size_t show(char out[ESCAPE_BYTES], const char *text, size_t n,
    enum text_style style, size_t *n_read)
{
    int length = kv_utf8_length(text, n);
    uint32_t point = length > 0 ? decode(text, length) : 0;

    *n_read = length > 0 ? (size_t)length : 1;
    if (length > 0 && is_harmless(point, style)) {
        memcpy(out, text, *n_read);
        return *n_read;
    }
    if (point == '\\')
        return (size_t)snprintf(out, ESCAPE_BYTES, "\\\\");
    if (length <= 1)
        return (size_t)snprintf(
            out, ESCAPE_BYTES, "\\x%02x", (unsigned char)text[0]);
    return (size_t)snprintf(out, ESCAPE_BYTES, "\\u%04" PRIx32, point & 0xFFFF);
}

void text_write(FILE *out, const char *text, size_t n, enum text_style style)
{
    char shown[ESCAPE_BYTES];
    size_t n_read;

    for (size_t i = 0; i < n; i += n_read) {
        size_t length = show(shown, text + i, n - i, style, &n_read);

        fwrite(shown, 1, length, out);
    }
}

struct text_name text_name(const char *name)
{
    struct text_name out = {""};
    char shown[ESCAPE_BYTES];
    size_t n = strlen(name), at = 0, n_read;

    for (size_t i = 0; i < n; i += n_read) {
        size_t length = show(shown, name + i, n - i, TEXT_NAME, &n_read);

        if (at + length + sizeof "..." > sizeof out.s) {
            memcpy(out.s + at, "...", sizeof "...");
            return out;
        }
        memcpy(out.s + at, shown, length);
        at += length;
    }
    out.s[at] = '\0';
    return out;
}

struct text text_count(uint64_t n, const char *noun)
{
    const char *hiss = noun + strlen(noun) - 1;
    const char *plural = strchr("hs", *hiss) != NULL ? "es" : "s";
    struct text out;

    snprintf(
        out.s, sizeof out.s, "%" PRIu64 " %s%s", n, noun, n == 1 ? "" : plural);
    return out;
}

struct text text_bytes(uint64_t n_bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)n_bytes / 1024;
    size_t unit = 0;
    struct text out;

    if (n_bytes < 1024) {
        snprintf(out.s, sizeof out.s, "%" PRIu64 " B", n_bytes);
        return out;
    }
    while (value >= 1023.95 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(out.s, sizeof out.s, "%.1f %s", value, units[unit]);
    return out;
}

struct text text_duration(int64_t duration_ns)
{
    double ns = (double)duration_ns;
    int64_t s = duration_ns / KV_NS_PER_S;
    struct text out;

    if (duration_ns < 1000)
        snprintf(out.s, sizeof out.s, "%" PRId64 " ns", duration_ns);
    else if (ns < 999.95e3)
        snprintf(out.s, sizeof out.s, "%.1f us", ns / 1e3);
    else if (ns < 999.95e6)
        snprintf(out.s, sizeof out.s, "%.1f ms", ns / 1e6);
    else if (ns < 59.95e9)
        snprintf(out.s, sizeof out.s, "%.1f s", ns / 1e9);
    else if (s < 3600)
        snprintf(out.s, sizeof out.s, "%" PRId64 " min %" PRId64 " s", s / 60,
            s % 60);
    else if (s < 86400)
        snprintf(out.s, sizeof out.s, "%" PRId64 " h %" PRId64 " min", s / 3600,
            s / 60 % 60);
    else
        snprintf(out.s, sizeof out.s, "%" PRId64 " d %" PRId64 " h", s / 86400,
            s / 3600 % 24);
    return out;
}

struct text text_time(int64_t unix_ns)
{
    int64_t rest_ns = unix_ns % KV_NS_PER_S;
    time_t s = (time_t)(unix_ns / KV_NS_PER_S);
    struct tm parts;
    struct text out;
    size_t at;

    if (rest_ns < 0) {
        rest_ns += KV_NS_PER_S;
        s--;
    }
    gmtime_r(&s, &parts); /* 64-bit nanoseconds stay within the year 2262 */
    at = strftime(out.s, sizeof out.s, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(
        out.s + at, sizeof out.s - at, ".%03dZ", (int)(rest_ns / KV_NS_PER_MS));
    return out;
}

struct text text_percent(double share)
{
    struct text out;

    snprintf(out.s, sizeof out.s, "%.1f%%", share * 100);
    return out;
}

struct text text_hex(const void *data, size_t n)
{
    const unsigned char *bytes = data;
    struct text out = {""};

    for (size_t i = 0; i < n && i < 16; i++)
        snprintf(out.s + 2 * i, 3, "%02x", bytes[i]);
    return out;
}

bool text_parse_count(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    if (value > max)
        return false;
    *out = value;
    return true;
}

bool text_parse_real(const char *text, double *out)
{
    char *end;
    double value;

    if (*text == '\0' || strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    value = strtod(text, &end);
    if (*end != '\0' || !isfinite(value))
        return false;
    *out = value;
    return true;
}

bool text_parse_duration(const char *text, int64_t *out_ns)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"ns", 1}, {"us", 1000}, {"ms", KV_NS_PER_MS},
        {"s", KV_NS_PER_S}, {"m", 60 * KV_NS_PER_S}, {"h", 3600 * KV_NS_PER_S}};
    size_t n_digits = strspn(text, "0123456789");
    char digits[20];
    uint64_t value;
    int64_t ns;

    if (n_digits == 0 || n_digits >= sizeof digits)
        return false;
    memcpy(digits, text, n_digits);
    digits[n_digits] = '\0';
    if (!text_parse_count(digits, INT64_MAX, &value))
        return false;
    if (text[n_digits] == '\0' && value == 0) {
        *out_ns = 0;
        return true;
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(text + n_digits, units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow((int64_t)value, units[i].ns, &ns))
            return false;
        *out_ns = ns;
        return true;
    }
    return false;
}
