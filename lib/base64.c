#include "base64.h"

#include <errno.h>
#include <stdint.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *data, size_t len, char *out)
{
    const uint8_t *in = data;

    for (; len >= 3; len -= 3, in += 3) {
        uint32_t bits = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];

        *out++ = alphabet[bits >> 18];
        *out++ = alphabet[bits >> 12 & 63];
        *out++ = alphabet[bits >> 6 & 63];
        *out++ = alphabet[bits & 63];
    }
    if (len > 0) {
        uint32_t bits = (uint32_t)in[0] << 16 | (len > 1 ? (uint32_t)in[1] << 8 : 0);

        *out++ = alphabet[bits >> 18];
        *out++ = alphabet[bits >> 12 & 63];
        *out++ = len > 1 ? alphabet[bits >> 6 & 63] : '=';
        *out++ = '=';
    }
}

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

int base64_decode(const char *text, size_t text_len, void *out, size_t *ret_len)
{
    uint8_t *to = out;

    if (text_len % 4 != 0)
        return -EINVAL;
    for (; text_len > 0; text_len -= 4, text += 4) {
        int padding = text_len == 4 ? (text[3] == '=') + (text[3] == '=' && text[2] == '=') : 0;
        uint32_t bits = 0;

        for (int i = 0; i < 4; i++) {
            int value = i < 4 - padding ? sextet(text[i]) : 0;

            if (value < 0)
                return -EINVAL;
            bits = bits << 6 | (uint32_t)value;
        }
        if ((padding == 1 && (bits & 0xff)) || (padding == 2 && (bits & 0xffff)))
            return -EINVAL;
        *to++ = (uint8_t)(bits >> 16);
        if (padding < 2)
            *to++ = (uint8_t)(bits >> 8);
        if (padding < 1)
            *to++ = (uint8_t)bits;
    }
    *ret_len = (size_t)(to - (uint8_t *)out);
    return 0;
}
