#include "base/utf8.h"

/* Table 3-7 of the Unicode standard: what the second byte may be depends on the
 * first one; all others are 80..BF. */
int kv_utf8_length(const char *text, size_t n)
{
    const unsigned char *at = (const unsigned char *)text;
    unsigned char low = 0x80, high = 0xBF;
    int length;

    if (at[0] < 0x80)
        return 1;
    if (at[0] >= 0xC2 && at[0] <= 0xDF) {
        length = 2;
    } else if ((at[0] & 0xF0) == 0xE0) {
        length = 3;
        low = at[0] == 0xE0 ? 0xA0 : 0x80;
        high = at[0] == 0xED ? 0x9F : 0xBF;
    } else if (at[0] >= 0xF0 && at[0] <= 0xF4) {
        length = 4;
        low = at[0] == 0xF0 ? 0x90 : 0x80;
        high = at[0] == 0xF4 ? 0x8F : 0xBF;
    } else {
        return 0;
    }
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n)
            return -1;
        if (at[i] < low || at[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

bool kv_utf8_valid(const char *text, size_t n)
{
    int length;

    for (size_t i = 0; i < n; i += (size_t)length) {
        length = kv_utf8_length(text + i, n - i);
        if (length <= 0)
            return false;
    }
    return true;
}

bool kv_utf8_has_control(const char *text, size_t n)
{
    const unsigned char *at = (const unsigned char *)text;

    for (size_t i = 0; i < n; i++)
        if (at[i] < 0x20 || at[i] == 0x7F ||
            (at[i] == 0xC2 && i + 1 < n && at[i + 1] < 0xA0))
            return true;
    return false;
}
