#include "single.h"

#include "answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int show_text(struct found *found, const struct consul_snapshot *snapshot)
{
    char *data = malloc(snapshot->len + 1);

    if (!data)
        return -ENOMEM;
    memcpy(data, snapshot->text, snapshot->len);
    data[snapshot->len] = '\0';
    return answer_show(found, snapshot, data, snapshot->len);
}

int single_find(struct op *op, struct inode *dir, const char *name, struct found *found)
{
    const struct single *single = op->row->of;
    struct consul_snapshot *snapshot;
    int r = op_read(op, single->path, single->format, single->flags, 0, &snapshot);

    (void)dir, (void)name;
    if (r < 0)
        return r == -EOPNOTSUPP ? -ENOENT : r; /* a server without it has no such file */
    if (single->format == CONSUL_TEXT)
        return show_text(found, snapshot);
    return answer_show_document(found, snapshot,
                                single->member ? json_object_get(snapshot->json, single->member) : snapshot->json);
}

int single_store(struct op *op, struct inode *dir, const char *name, const char *data, size_t len)
{
    const struct single *single = op->row->of;
    json_t *document;
    int r;

    (void)dir, (void)name;
    if (op->stage > 0) {
        if (op->result == 0)
            consul_expire(op->fs->consul, single->path);
        return op->result;
    }
    document = json_loadb(data, len, 0, NULL);
    if (!document)
        return -EINVAL;
    r = answer_send(op, single->method, single->write, "", document);
    json_decref(document);
    return r;
}
