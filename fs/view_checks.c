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
static const char *const titles[] = {"STATUS", "NODE", "SERVICE", "CHECK", "NAME", NULL};
#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

static int by_severity(const void *a, const void *b)
{
    const json_t *one = *(const json_t *const *)a, *other = *(const json_t *const *)b;
    int r = (int)view_check_status(other) - (int)view_check_status(one);

    for (size_t i = 1; r == 0 && i < COLUMNS; i++)
        r = strcmp(view_string(one, columns[i]), view_string(other, columns[i]));
    return r;
}

static json_t *cells_of(const json_t *const *checks, size_t n)
{
    json_t *cells = json_array(), *row;

    for (size_t i = 0; i < n; i++) {
        row = json_array();
        for (size_t column = 0; column < COLUMNS; column++)
            json_array_append_new(row, json_string(view_string(checks[i], columns[column])));
        if (json_array_append_new(cells, row) < 0) { /* one of them is NULL */
            json_decref(cells);
            return NULL;
        }
    }
    return cells;
}

int view_checks_summary(const json_t *checks, char **ret_data, size_t *ret_len)
{
    size_t n = json_array_size(checks);
    const json_t **sorted;
    json_t *cells;
    int r;

    if (!json_is_array(checks))
        return -EIO;
    sorted = calloc(n + 1, sizeof(*sorted));
    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        sorted[i] = json_array_get(checks, i);
    qsort(sorted, n, sizeof(*sorted), by_severity);
    cells = cells_of(sorted, n);
    r = view_table(titles, cells, ret_data, ret_len);
    json_decref(cells);
    free(sorted);
    return r;
}
