#include "rpc/trace.h"

#include <string.h>

/* version-trace_id-parent_id-flags: "00-<32>-<16>-<2>", lower case. */
#define PARENT_AT 36
#define FLAGS_AT 53
#define LENGTH 55
#define PARENT_BYTES 8

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

static bool parse_hex(uint8_t *out, const char *text, size_t n_bytes)
{
    int high, low;

    for (size_t i = 0; i < n_bytes; i++) {
        high = hex_digit(text[2 * i]);
        low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

bool trace_id_parse(uint8_t out[TRACE_ID_BYTES], const char *text, size_t n)
{
    uint8_t version, id[TRACE_ID_BYTES], parent[PARENT_BYTES], flags;

    if (n < LENGTH || text[2] != '-' || text[PARENT_AT - 1] != '-' ||
        text[FLAGS_AT - 1] != '-')
        return false;
    if (!parse_hex(&version, text, 1) || !parse_hex(id, text + 3, sizeof id) ||
        !parse_hex(parent, text + PARENT_AT, sizeof parent) ||
        !parse_hex(&flags, text + FLAGS_AT, 1))
        return false;
    if (version == 0xff || (version == 0 && n != LENGTH) ||
        (n > LENGTH && text[LENGTH] != '-'))
        return false;
    if (all_zero(id, sizeof id) || all_zero(parent, sizeof parent))
        return false;
    memcpy(out, id, sizeof id);
    return true;
}
