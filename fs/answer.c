#include "answer.h"

#include "content.h"
#include "name.h"
#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

char *answer_path(const char *prefix, const char *name, const char *suffix)
{
    size_t len = strlen(prefix), size = len + 3 * strlen(name) + strlen(suffix) + 1;
    char *path = malloc(size);

    if (path) {
        memcpy(path, prefix, len);
        consul_urlencode(name, NULL, path + len);
        strcat(path, suffix);
    }
    return path;
}

int answer_read(struct op *op, const char *prefix, const char *name, const char *suffix, unsigned flags,
                struct consul_snapshot **ret_snapshot)
{
    char *path = answer_path(prefix, name, suffix);
    int r = path ? op_read(op, path, CONSUL_JSON, flags, 0, ret_snapshot) : -ENOMEM;

    free(path);
    return r;
}

int answer_show(struct found *found, const struct consul_snapshot *snapshot, char *data, size_t len)
{
    found->content = content_take(data, len, snapshot->seen_ns);
    found->mtime_ns = snapshot->seen_ns;
    return found->content ? 0 : -ENOMEM;
}

int answer_show_document(struct found *found, const struct consul_snapshot *snapshot, const json_t *json)
{
    size_t len;
    char *data;
    int r;

    if (!json)
        return -ENOENT;
    r = view_document(json, &data, &len);
    return r < 0 ? r : answer_show(found, snapshot, data, len);
}

int answer_list_document(struct op *op, struct lister *lister, int r, const char *name,
                         const struct consul_snapshot *snapshot, const json_t *json, const struct kind *kind)
{
    struct found found = {.kind = kind, .mtime_ns = snapshot->seen_ns};

    if (r == -ENAMETOOLONG || r == -EINVAL) {
        fs_name_left_out(op->fs);
        return 0;
    }
    if (r == 0 && lister->with_content)
        r = answer_show_document(&found, snapshot, json);
    return r < 0 ? r : lister->emit(lister, name, &found);
}

char *answer_datacenter(struct fs *fs)
{
    char *datacenter;

    if (fs->options->datacenter)
        return strdup(fs->options->datacenter);
    pthread_mutex_lock(&fs->agent.lock);
    datacenter = fs->agent.datacenter ? strdup(fs->agent.datacenter) : NULL;
    pthread_mutex_unlock(&fs->agent.lock);
    return datacenter;
}

char *answer_local_node(struct fs *fs)
{
    const char *wanted = fs->options->datacenter;
    bool elsewhere;

    pthread_mutex_lock(&fs->agent.lock);
    elsewhere = wanted && fs->agent.datacenter && strcmp(wanted, fs->agent.datacenter) != 0;
    pthread_mutex_unlock(&fs->agent.lock);
    return elsewhere ? NULL : fs_agent_node(fs);
}

int answer_list_name(struct op *op, struct lister *lister, const char *consul_name, const struct found *found)
{
    char name[NAME_SIZE];

    if (name_encode(consul_name, strlen(consul_name), NULL, name) < 0) {
        fs_name_left_out(op->fs);
        return 0;
    }
    return lister->emit(lister, name, found);
}
