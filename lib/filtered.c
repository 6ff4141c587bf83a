#include "filtered.h"

#include <stdlib.h>
#include <string.h>

static void remove_at(struct filtered *filtered, size_t i)
{
    free(filtered->paths[i]);
    filtered->n--;
    memmove(&filtered->paths[i], &filtered->paths[i + 1], (filtered->n - i) * sizeof(*filtered->paths));
}

void filtered_note(struct filtered *filtered, const char *path, bool is_filtered)
{
    size_t i = 0;
    char *copy;

    while (i < filtered->n && strcmp(filtered->paths[i], path) != 0)
        i++;
    if (is_filtered == (i < filtered->n))
        return;
    if (!is_filtered) {
        remove_at(filtered, i);
        return;
    }
    copy = strdup(path);
    if (!copy)
        return;
    if (filtered->n == FILTERED_KEPT)
        remove_at(filtered, 0);
    filtered->paths[filtered->n++] = copy;
}

char *filtered_text(const struct filtered *filtered)
{
    size_t size = 1;
    char *text, *to;

    for (size_t i = 0; i < filtered->n; i++)
        size += strlen(filtered->paths[i]) + 1;
    text = to = malloc(size);
    if (!text)
        return NULL;
    for (size_t i = 0; i < filtered->n; i++)
        to = stpcpy(stpcpy(to, filtered->paths[i]), "\n");
    *to = '\0';
    return text;
}

void filtered_clear(struct filtered *filtered)
{
    while (filtered->n > 0)
        remove_at(filtered, filtered->n - 1);
}
