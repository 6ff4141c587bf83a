/* A byte buffer with a hard maximum; see buf.h. */
#include "consul.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first allocation, NUL included: most answers of Consul's agent endpoints fit. */
#define BUF_FIRST_ALLOC 256

void consul_buf_init(struct consul_buf *buf, size_t max)
{
    /* PTRDIFF_MAX is the largest object that C can address, and leaves room to count the NUL without overflow. */
    *buf = (struct consul_buf){.max = max < PTRDIFF_MAX ? max : PTRDIFF_MAX - 1};
}

/* Makes room for extra more bytes and the NUL. len <= max always holds, so the subtraction cannot wrap. */
static int buf_reserve(struct consul_buf *buf, size_t extra)
{
    size_t need, alloc;
    char *data;

    if (extra > buf->max - buf->len)
        return -EFBIG;
    need = buf->len + extra;
    if (buf->data && need <= buf->cap)
        return 0;

    /* Doubling keeps appending linear; never allocate past the maximum, which is small for many buffers. */
    alloc = buf->data ? buf->cap + 1 : BUF_FIRST_ALLOC / 2;
    do
        alloc = alloc > SIZE_MAX / 2 ? SIZE_MAX : alloc * 2;
    while (alloc <= need);
    if (alloc > buf->max + 1)
        alloc = buf->max + 1;

    data = realloc(buf->data, alloc);
    if (!data)
        return -ENOMEM;
    data[buf->len] = '\0';
    buf->data = data;
    buf->cap = alloc - 1;
    return 0;
}

int consul_buf_append(struct consul_buf *buf, const void *data, size_t len)
{
    int r;

    if (len == 0)
        return 0;
    r = buf_reserve(buf, len);
    if (r < 0)
        return r;
    memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return 0;
}

int consul_buf_puts(struct consul_buf *buf, const char *text) { return consul_buf_append(buf, text, strlen(text)); }

int consul_buf_printf(struct consul_buf *buf, const char *fmt, ...)
{
    size_t room = buf->data ? buf->cap - buf->len + 1 : 0;
    va_list args;
    int n, r;

    /* Nearly always there is room already and the text is made once; else its length is known after this. */
    va_start(args, fmt);
    n = vsnprintf(room ? buf->data + buf->len : NULL, room, fmt, args);
    va_end(args);

    if (n >= 0 && (size_t)n < room) {
        buf->len += (size_t)n;
        return 0;
    }
    if (room)
        buf->data[buf->len] = '\0';
    if (n < 0)
        return errno == ENOMEM ? -ENOMEM : -EFBIG; /* the other way to fail: longer than INT_MAX */

    r = buf_reserve(buf, (size_t)n);
    if (r < 0)
        return r;
    va_start(args, fmt);
    vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)n;
    return 0;
}

/* RFC 3986, section 2.3. By hand: isalnum() follows the locale. */
static bool is_unreserved(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

int consul_buf_append_urlencoded(struct consul_buf *buf, const char *text, size_t len, const char *safe)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t before = buf->len;
    int r = 0;

    for (size_t i = 0; i < len && r == 0; i++) {
        unsigned char c = (unsigned char)text[i];

        if (is_unreserved(text[i]) || (c != '\0' && safe && strchr(safe, c)))
            r = consul_buf_append(buf, &text[i], 1);
        else
            r = consul_buf_append(buf, (const char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
    }
    if (r < 0 && buf->data) {
        buf->len = before;
        buf->data[before] = '\0';
    }
    return r;
}

void consul_buf_reset(struct consul_buf *buf)
{
    buf->len = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

char *consul_buf_take(struct consul_buf *buf, size_t *ret_len)
{
    size_t len = buf->len;
    char *data, *fitting;

    if (buf_reserve(buf, 0) < 0)
        return NULL;

    /* What is taken is mostly kept for long (a snapshot), so the slack goes back. A failure to shrink harms nothing. */
    data = buf->data;
    fitting = realloc(data, len + 1);
    consul_buf_init(buf, buf->max);
    if (ret_len)
        *ret_len = len;
    return fitting ? fitting : data;
}

void consul_buf_free(struct consul_buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    consul_buf_init(buf, buf->max);
}
