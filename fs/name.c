/* Consul's names as file names; see name.h. */
#include "name.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char hex_digits[] = "0123456789ABCDEF";

/* What an escape may stand for, besides extra. */
static const char escapable[] = "/.%";

/* The character that text ("%2F…", at least a NUL at its end) escapes, or NUL if it is no escape that we make. */
static char escape_at(const char *text, size_t len, const char *extra)
{
    const char *high, *low;
    char c;

    if (len < 3 || text[0] != '%' || !text[1] || !text[2])
        return '\0';
    high = strchr(hex_digits, text[1]);
    low = strchr(hex_digits, text[2]);
    if (!high || !low)
        return '\0';
    c = (char)((high - hex_digits) << 4 | (low - hex_digits));
    return c && (strchr(escapable, c) || (extra && strchr(extra, c))) ? c : '\0';
}

int name_encode(const char *consul, size_t len, const char *extra, char out[NAME_SIZE])
{
    bool dots = (len == 1 && consul[0] == '.') || (len == 2 && memcmp(consul, "..", 2) == 0);
    char file[NAME_SIZE];
    size_t n = 0;

    assert(!extra || !strpbrk(extra, "%0123456789ABCDEF"));
    if (len == 0 || memchr(consul, '\0', len))
        return -EINVAL;

    for (size_t i = 0; i < len; i++) {
        char c = consul[i];
        bool escape = c == '/' || (c == '.' && dots) || (extra && strchr(extra, c)) ||
                      (c == '%' && (i == 0 || escape_at(consul + i, len - i, extra)));

        if (n + (escape ? 3 : 1) > NAME_LEN_MAX)
            return -ENAMETOOLONG;
        if (escape) {
            file[n++] = '%';
            file[n++] = hex_digits[(unsigned char)c >> 4];
            file[n++] = hex_digits[(unsigned char)c & 15];
        } else {
            file[n++] = c;
        }
    }
    memcpy(out, file, n);
    out[n] = '\0';
    return 0;
}

int name_decode(const char *file, const char *extra, char *out, size_t out_size)
{
    size_t len = strnlen(file, NAME_LEN_MAX + 1), n = 0;
    char name[NAME_SIZE], again[NAME_SIZE];

    if (len == 0)
        return -ENOENT;
    if (len > NAME_LEN_MAX)
        return -ENAMETOOLONG;

    for (size_t i = 0; i < len; i++) {
        char c = escape_at(file + i, len - i, extra);

        name[n++] = c ? c : file[i];
        if (c)
            i += 2;
    }

    /* One to one by construction: whatever has several spellings, only the one that we would list exists. */
    if (name_encode(name, n, extra, again) < 0 || strlen(again) != len || memcmp(again, file, len) != 0)
        return -ENOENT;
    if (n >= out_size)
        return -ENAMETOOLONG;
    memcpy(out, name, n);
    out[n] = '\0';
    return 0;
}

int name_kv_encode(const char *component, size_t len, char out[NAME_SIZE])
{
    if (len == 0) {
        memcpy(out, NAME_KV_EMPTY, sizeof(NAME_KV_EMPTY));
        return 0;
    }
    if (memchr(component, '/', len))
        return -EINVAL;
    return name_encode(component, len, NULL, out);
}

int name_kv_decode(const char *file, char *out, size_t out_size)
{
    char name[NAME_SIZE];
    size_t len;
    int r;

    if (strcmp(file, NAME_KV_EMPTY) == 0) {
        if (out_size == 0)
            return -ENAMETOOLONG;
        out[0] = '\0';
        return 0;
    }

    r = name_decode(file, NULL, name, sizeof(name));
    if (r < 0)
        return r;
    if (strchr(name, '/'))
        return -ENOENT; /* "a%2Fb": two components, which are two files */
    len = strlen(name);
    if (len >= out_size)
        return -ENAMETOOLONG;
    memcpy(out, name, len + 1);
    return 0;
}

uint64_t name_hash(uint64_t dir, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u ^ dir;

    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash;
}
