/*
 * jansson alone does not tell what is cut off from what is wrong: of `{"a": tru` and of half a UTF-8 character it says
 * "invalid". So where the object ends is found here, and jansson judges what is there.
 */
#include "document.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>

/* Have all brackets been closed? What follows the last one does not matter. */
static bool is_closed(const char *data, size_t len)
{
    bool in_string = false;
    size_t depth = 0;

    for (size_t i = 0; i < len; i++) {
        char c = data[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && --depth == 0) {
            return true;
        }
    }
    return false;
}

/* Bytes at the end that begin a UTF-8 character and do not complete it. */
static size_t partial_character(const char *data, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char c = (unsigned char)data[len - back];
        size_t needs = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;

        if ((c & 0xc0) != 0x80)
            return needs > back ? back : 0;
    }
    return 0;
}

/* A number, a literal, or an escape in a string: jansson complains of its end although more of it may come. */
static bool may_be_cut(const char *data, size_t len, int position)
{
    size_t at = len;

    while (at > 0 && (isalnum((unsigned char)data[at - 1]) || strchr("+-.\\", data[at - 1])))
        at--;
    return at < len && position >= 0 && (size_t)position >= at;
}

int document_complete(const char *data, size_t len)
{
    json_error_t error;
    json_t *json;
    size_t start = 0;

    while (start < len && strchr(" \t\r\n", data[start]) && data[start])
        start++;
    if (start == len)
        return 0;
    if (data[start] != '{')
        return -EINVAL;
    if (is_closed(data, len)) {
        json = json_loadb(data, len, 0, NULL);
        json_decref(json);
        return json ? 1 : -EINVAL;
    }
    len -= partial_character(data, len);
    json = json_loadb(data, len, 0, &error);
    json_decref(json); /* cannot be: it is not closed */
    if (json_error_code(&error) == json_error_premature_end_of_input)
        return 0;
    return may_be_cut(data, len, error.position) ? 0 : -EINVAL;
}
