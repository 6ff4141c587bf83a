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

/* By character, from '+' on, what the alphabet has it for; 64: it has not. */
static const uint8_t sextets['z' - '+' + 1] = {
    62, 64, 64, 64, 63, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 64, 64, 64, 64, 64, 64, 64, 0,  1,  2,  3,  4,
    5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 64, 64, 64, 64, 64, 64,
    26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
};

static unsigned sextet(char c)
{
    unsigned at = (unsigned)(unsigned char)c - '+';

    return at < sizeof(sextets) ? sextets[at] : 64;
}

int base64_decode(const char *text, size_t text_len, void *out, size_t *ret_len)
{
    uint8_t *to = out;

    if (text_len % 4 != 0)
        return -EINVAL;
    for (; text_len > 0; text_len -= 4, text += 4) {
        int padding = text_len == 4 ? (text[3] == '=') + (text[3] == '=' && text[2] == '=') : 0;
        uint32_t bits = 0, invalid = 0;

        for (int i = 0; i < 4; i++) {
            unsigned value = i < 4 - padding ? sextet(text[i]) : 0;

            invalid |= value;
            bits = bits << 6 | value;
        }
        if (invalid & 64)
            return -EINVAL;
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
