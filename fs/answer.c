#include "answer.h"

#include "content.h"
#include "name.h"
#include "view.h"

#include <errno.h>
#include <stdarg.h>
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
    if (r == 0 && json && lister->with_content)
        r = answer_show_document(&found, snapshot, json);
    return r < 0 ? r : lister->emit(lister, name, &found);
}

char *answer_datacenter(struct op *op)
{
    const char *wanted = op_datacenter(op);
    struct fs *fs = op->fs;
    char *datacenter;

    if (!wanted)
        wanted = fs->options->datacenter;
    if (wanted)
        return strdup(wanted);
    pthread_mutex_lock(&fs->agent.lock);
    datacenter = fs->agent.datacenter ? strdup(fs->agent.datacenter) : NULL;
    pthread_mutex_unlock(&fs->agent.lock);
    return datacenter;
}

bool answer_is_local(struct op *op)
{
    const char *wanted = op_datacenter(op);
    bool local;

    if (!wanted)
        wanted = op->fs->options->datacenter;
    pthread_mutex_lock(&op->fs->agent.lock);
    local = !wanted || !op->fs->agent.datacenter || strcmp(wanted, op->fs->agent.datacenter) == 0;
    pthread_mutex_unlock(&op->fs->agent.lock);
    return local;
}

char *answer_local_node(struct op *op) { return answer_is_local(op) ? fs_agent_node(op->fs) : NULL; }

int answer_list_suffixed(struct op *op, struct lister *lister, const char *consul_name, const char *suffix,
                         const struct kind *row)
{
    char name[NAME_SIZE];

    if (view_file_name(consul_name, suffix, name) < 0) {
        fs_name_left_out(op->fs);
        return 0;
    }
    return lister->emit(lister, name, &(struct found){.kind = row});
}

int answer_may_create_json(struct op *op, struct inode *dir, const char *name)
{
    char decoded[NAME_SIZE];

    (void)op, (void)dir;
    if (!view_is_json_name(name))
        return -EPERM;
    return view_json_parse(name, decoded) < 0 ? -EINVAL : 0;
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

unsigned answer_minor_version(struct fs *fs)
{
    unsigned major = 0, minor = 0;

    pthread_mutex_lock(&fs->agent.lock);
    if (fs->agent.version && sscanf(fs->agent.version, "%u.%u", &major, &minor) != 2)
        major = minor = 0;
    pthread_mutex_unlock(&fs->agent.lock);
    return major > 1 ? 1000 : minor;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

int answer_send(struct op *op, const char *method, const char *path, const char *name, const json_t *document)
{
    struct consul_request request = {.method = method, .intent = CONSUL_WRITE_STRICT};
    char *whole = answer_path(path, name, ""), *body = document ? json_dumps(document, JSON_COMPACT) : NULL;
    int r = whole && (body || !document) ? 0 : -ENOMEM;

    if (r == 0) {
        request.path = whole;
        request.body = body;
        request.body_len = body ? strlen(body) : 0;
        r = op_request(op, &request);
    }
    free(whole);
    free(body);
    return r;
}

void answer_refuse(struct op *op, const char *path, const char *format, ...)
{
    va_list args;
    char *why;
    int len;

    va_start(args, format);
    len = vasprintf(&why, format, args);
    va_end(args);
    if (len < 0)
        return;
    refusals_add(&op->fs->refusals, "PUT", path, 0, why, (size_t)len);
    free(why);
}
