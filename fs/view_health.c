#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- status ------------------------------------------------------------------------------------------------------ */

/* What Consul has no name for is not passing. A check in maintenance is critical to Consul too. */
enum view_status view_check_status(const json_t *check)
{
    const char *status = view_string(check, "Status");

    if (strcmp(status, "passing") == 0)
        return VIEW_PASSING;
    return strcmp(status, "warning") == 0 ? VIEW_WARNING : VIEW_CRITICAL;
}

enum view_status view_instance_status(const json_t *entry)
{
    enum view_status worst = VIEW_PASSING;
    json_t *check;
    size_t i;

    json_array_foreach(json_object_get(entry, "Checks"), i, check)
    {
        enum view_status status = view_check_status(check);

        if (status > worst)
            worst = status;
    }
    return worst;
}

bool view_is_alive(const json_t *checks)
{
    const json_t *serf = view_select(checks, "CheckID", "serfHealth");

    return serf && view_check_status(serf) == VIEW_PASSING;
}

bool view_has_live_agent(const json_t *entry) { return view_is_alive(json_object_get(entry, "Checks")); }

/* ---- instances --------------------------------------------------------------------------------------------------- */

const char *view_instance_id(const json_t *entry) { return view_string(json_object_get(entry, "Service"), "ID"); }

const char *view_instance_node(const json_t *entry) { return view_string(json_object_get(entry, "Node"), "Node"); }

const char *view_instance_host(const json_t *entry)
{
    const char *own = view_string(json_object_get(entry, "Service"), "Address");

    return *own ? own : view_string(json_object_get(entry, "Node"), "Address");
}

int view_instance_port(const json_t *entry)
{
    return (int)json_integer_value(json_object_get(json_object_get(entry, "Service"), "Port"));
}

const json_t *view_find_instance(const json_t *health, const char *id, const char *node)
{
    json_t *entry;
    size_t i;

    json_array_foreach(health, i, entry)
    {
        if (strcmp(view_instance_id(entry), id) == 0 && (!node || strcmp(view_instance_node(entry), node) == 0))
            return entry;
    }
    return NULL;
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void put_address(FILE *stream, const char *host, int port)
{
    bool v6 = strchr(host, ':') && *host != '[';

    if (port > 0)
        fprintf(stream, v6 ? "[%s]:%d" : "%s:%d", host, port);
    else /* nothing follows that the colons could be taken for */
        fputs(host, stream);
}

int view_address(const char *host, int port, char **ret_address)
{
    struct text text;
    size_t len;
    int r = text_begin(&text);

    if (r < 0)
        return r;
    put_address(text.stream, host, port);
    return text_end(&text, ret_address, &len);
}

int view_addresses(const json_t *health, enum view_status best, enum view_status worst, char **ret_data,
                   size_t *ret_len)
{
    struct text text;
    json_t *entry;
    size_t i;
    int r;

    if (!json_is_array(health))
        return -EIO;
    r = text_begin(&text);
    if (r < 0)
        return r;
    json_array_foreach(health, i, entry)
    {
        enum view_status status = view_instance_status(entry);

        if (status < best || status > worst)
            continue;
        put_address(text.stream, view_instance_host(entry), view_instance_port(entry));
        fputc('\n', text.stream);
    }
    return text_end(&text, ret_data, ret_len);
}

/* ---- tags -------------------------------------------------------------------------------------------------------- */

static const json_t *tags_of(const json_t *entry) { return json_object_get(json_object_get(entry, "Service"), "Tags"); }

/* Borrowed strings of all instances; the caller frees the array. NULL without memory. */
static const char **collect_tags(const json_t *health, size_t *ret_n)
{
    size_t instances = json_array_size(health), n = 0;
    const char **tags;

    for (size_t i = 0; i < instances; i++)
        n += json_array_size(tags_of(json_array_get(health, i)));
    tags = calloc(n + 1, sizeof(*tags));
    n = 0;
    for (size_t i = 0; tags && i < instances; i++) {
        const json_t *own = tags_of(json_array_get(health, i));

        for (size_t j = 0; j < json_array_size(own); j++) {
            const char *tag = json_string_value(json_array_get(own, j));

            if (tag)
                tags[n++] = tag;
        }
    }
    *ret_n = n;
    return tags;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

int view_tags(const json_t *health, char **ret_data, size_t *ret_len)
{
    const char **tags, *last = "";
    struct text text;
    size_t n;
    int r;

    if (!json_is_array(health))
        return -EIO;
    tags = collect_tags(health, &n);
    if (!tags)
        return -ENOMEM;
    qsort(tags, n, sizeof(*tags), by_bytes);
    r = text_begin(&text);
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (strcmp(tags[i], last) != 0)
            fprintf(text.stream, "%s\n", tags[i]);
        last = tags[i];
    }
    free(tags);
    return r < 0 ? r : text_end(&text, ret_data, ret_len);
}
