#include "view.h"

#include <errno.h>

#define COLUMNS_MAX 16

static const char *cell(const json_t *row, size_t column)
{
    const char *text = json_string_value(json_array_get(row, column));

    return text && *text ? text : "-"; /* an absent value keeps its place */
}

/* Characters, not bytes: what UTF-8 continues a character with does not count. */
static int width(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += (*text & 0xc0) != 0x80;
    return n;
}

/* A table has a row a line: control characters would break it. */
static void put_cell(FILE *stream, const char *text, int wide)
{
    for (const char *c = text; *c; c++)
        fputc((unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c, stream);
    if (wide > 0)
        fprintf(stream, "%*s", wide - width(text) + 2, "");
}

/* The last column gets no blanks behind it. */
static size_t measure(const char *const *titles, const json_t *rows, int wide[COLUMNS_MAX])
{
    size_t n = 0, i;
    const json_t *row;

    for (; titles[n] && n < COLUMNS_MAX; n++) {
        wide[n] = width(titles[n]);
        json_array_foreach(rows, i, row)
        {
            int w = width(cell(row, n));

            if (w > wide[n])
                wide[n] = w;
        }
    }
    wide[n - 1] = 0;
    return n;
}

int view_table(const char *const *titles, const json_t *rows, char **ret_data, size_t *ret_len)
{
    int wide[COLUMNS_MAX], r;
    const json_t *row;
    struct text text;
    size_t n, i;

    if (!rows)
        return -ENOMEM;
    r = text_begin(&text);
    if (r < 0)
        return r;
    n = measure(titles, rows, wide);
    for (size_t column = 0; column < n; column++)
        put_cell(text.stream, titles[column], wide[column]);
    fputc('\n', text.stream);
    json_array_foreach(rows, i, row)
    {
        for (size_t column = 0; column < n; column++)
            put_cell(text.stream, cell(row, column), wide[column]);
        fputc('\n', text.stream);
    }
    return text_end(&text, ret_data, ret_len);
}
