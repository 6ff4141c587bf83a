#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool view_check_is(const json_t *check, const char *state)
{
    return strcmp(state, "any") == 0 || strcmp(view_string(check, "Status"), state) == 0;
}

const json_t *view_find_check(const json_t *checks, const char *state, const char *id, const char *node)
{
    json_t *check;
    size_t i;

    json_array_foreach(checks, i, check)
    {
        if (strcmp(view_string(check, "CheckID"), id) == 0 && strcmp(view_string(check, "Node"), node) == 0)
            return view_check_is(check, state) ? check : NULL;
    }
    return NULL;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static const char *const columns[] = {"Status", "Node", "ServiceName", "CheckID", "Name"};
static const char *const titles[] = {"STATUS", "NODE", "SERVICE", "CHECK", "NAME"};
#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

static int by_severity(const void *a, const void *b)
{
    const json_t *one = *(const json_t *const *)a, *other = *(const json_t *const *)b;
    int r = (int)view_check_status(other) - (int)view_check_status(one);

    for (size_t i = 1; r == 0 && i < COLUMNS; i++)
        r = strcmp(view_string(one, columns[i]), view_string(other, columns[i]));
    return r;
}

/* Characters, not bytes: what UTF-8 continues a character with does not count. */
static int width(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += (*text & 0xc0) != 0x80;
    return n;
}

/* A table has a row a line: control characters would break it. An absent value keeps its place. */
static void put_cell(FILE *stream, const char *text, int wide)
{
    if (!*text)
        text = "-";
    for (const char *c = text; *c; c++)
        fputc((unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c, stream);
    if (wide > 0)
        fprintf(stream, "%*s", wide - width(text) + 2, "");
}

static void measure(const json_t *const *checks, size_t n, int wide[COLUMNS])
{
    for (size_t column = 0; column + 1 < COLUMNS; column++) {
        wide[column] = width(titles[column]);
        for (size_t i = 0; i < n; i++) {
            int w = width(view_string(checks[i], columns[column]));

            if (w > wide[column])
                wide[column] = w;
        }
    }
    wide[COLUMNS - 1] = 0; /* no blanks at the end of a line */
}

static void put_table(FILE *stream, const json_t *const *checks, size_t n)
{
    int wide[COLUMNS];

    measure(checks, n, wide);
    for (size_t column = 0; column < COLUMNS; column++)
        put_cell(stream, titles[column], wide[column]);
    fputc('\n', stream);
    for (size_t i = 0; i < n; i++) {
        for (size_t column = 0; column < COLUMNS; column++)
            put_cell(stream, view_string(checks[i], columns[column]), wide[column]);
        fputc('\n', stream);
    }
}

int view_checks_summary(const json_t *checks, char **ret_data, size_t *ret_len)
{
    size_t n = json_array_size(checks);
    const json_t **sorted;
    struct text text;
    int r;

    if (!json_is_array(checks))
        return -EIO;
    sorted = calloc(n + 1, sizeof(*sorted));
    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        sorted[i] = json_array_get(checks, i);
    qsort(sorted, n, sizeof(*sorted), by_severity);
    r = text_begin(&text);
    if (r == 0)
        put_table(text.stream, sorted, n);
    free(sorted);
    return r < 0 ? r : text_end(&text, ret_data, ret_len);
}
