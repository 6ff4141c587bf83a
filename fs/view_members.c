#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* As serf numbers them. */
static const char *status_of(const json_t *member)
{
    static const char *const names[] = {"none", "alive", "leaving", "left", "failed"};
    json_int_t status = json_integer_value(json_object_get(member, "Status"));

    return status >= 0 && (size_t)status < sizeof(names) / sizeof(names[0]) ? names[status] : "unknown";
}

static const char *type_of(const json_t *tags)
{
    const char *role = view_string(tags, "role");

    return strcmp(role, "consul") == 0 ? "server" : strcmp(role, "node") == 0 ? "client" : role;
}

static json_t *cells_of(const json_t *member)
{
    const json_t *tags = json_object_get(member, "Tags");
    const char *build = view_string(tags, "build");
    char *address;
    json_t *row;

    if (view_address(view_string(member, "Addr"), (int)json_integer_value(json_object_get(member, "Port")), &address) <
        0)
        return NULL;
    row = json_pack("[s, s, s, s, s%, s]", view_string(member, "Name"), address, status_of(member), type_of(tags),
                    build, strcspn(build, ":"), view_string(tags, "dc"));
    free(address);
    return row;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(json_string_value(json_array_get(*(json_t *const *)a, 0)),
                  json_string_value(json_array_get(*(json_t *const *)b, 0)));
}

int view_members(const json_t *members, char **ret_data, size_t *ret_len)
{
    static const char *const titles[] = {"NAME", "ADDRESS", "STATUS", "TYPE", "BUILD", "DATACENTER", NULL};
    size_t n = json_array_size(members), i;
    json_t **sorted = calloc(n + 1, sizeof(*sorted)), *rows = json_array();
    int r = sorted && rows ? 0 : -ENOMEM;

    for (i = 0; r == 0 && i < n; i++) {
        sorted[i] = cells_of(json_array_get(members, i));
        if (!sorted[i])
            r = -ENOMEM;
    }
    if (r == 0)
        qsort(sorted, n, sizeof(*sorted), by_name);
    for (i = 0; r == 0 && i < n; i++)
        r = json_array_append(rows, sorted[i]) < 0 ? -ENOMEM : 0;
    for (i = 0; sorted && i < n; i++)
        json_decref(sorted[i]);
    free(sorted);
    if (r == 0)
        r = view_table(titles, rows, ret_data, ret_len);
    json_decref(rows);
    return r;
}
