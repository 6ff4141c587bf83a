#include "handle.h"

#include "content.h"
#include "name.h"
#include "spool.h"
#include "stream.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct handle *handle_new(struct fs *fs, struct inode *inode, unsigned flags, pid_t pid, struct content *content)
{
    struct handle *handle = calloc(1, sizeof(*handle));

    if (!handle)
        return NULL;
    handle->fs = fs;
    handle->inode = inode_ref(&fs->inodes, inode);
    handle->flags = flags;
    handle->pid = pid;
    handle->refs = 1;
    handle->content = content ? content_ref(content) : NULL;
    pthread_mutex_init(&handle->lock, NULL);
    pthread_mutex_lock(&fs->open_lock);
    handle->next = fs->handles;
    if (fs->handles)
        fs->handles->prev = handle;
    fs->handles = handle;
    pthread_mutex_unlock(&fs->open_lock);
    return handle;
}

void handle_begin(struct handle *handle, bool replaces, bool dirty)
{
    pthread_mutex_lock(&handle->lock); /* who has the file open in the same process may see it already */
    handle->replaces = replaces;
    handle->dirty = dirty;
    pthread_mutex_unlock(&handle->lock);
}

struct handle *handle_ref(struct handle *handle)
{
    pthread_mutex_lock(&handle->lock);
    handle->refs++;
    pthread_mutex_unlock(&handle->lock);
    return handle;
}

static void handle_free(struct handle *handle)
{
    struct fs *fs = handle->fs;

    pthread_mutex_lock(&fs->open_lock);
    if (handle->prev)
        handle->prev->next = handle->next;
    else
        fs->handles = handle->next;
    if (handle->next)
        handle->next->prev = handle->prev;
    pthread_mutex_unlock(&fs->open_lock);
    if (handle->stream)
        stream_close(handle->stream);
    spool_free(handle->spool);
    content_unref(handle->content);
    inode_unref(&fs->inodes, handle->inode);
    free(handle->data);
    pthread_mutex_destroy(&handle->lock);
    free(handle);
}

void handle_unref(struct handle *handle)
{
    bool last;

    if (!handle)
        return;
    pthread_mutex_lock(&handle->lock);
    last = --handle->refs == 0;
    pthread_mutex_unlock(&handle->lock);
    if (last)
        handle_free(handle);
}

void handle_set_content(struct handle *handle, struct content *content)
{
    struct content *old = NULL;

    pthread_mutex_lock(&handle->lock);
    if (!handle->storing) { /* else that decides what is there */
        old = handle->content;
        handle->content = content_ref(content);
    }
    pthread_mutex_unlock(&handle->lock);
    content_unref(old);
}

bool handle_has_version(const struct handle *handle, uint64_t version)
{
    return handle->content && content_version(handle->content) == version;
}

/* handle.lock is held. What is written next is written to what is there. */
static void forget_data(struct handle *handle)
{
    free(handle->data);
    handle->data = NULL;
    handle->len = handle->cap = 0;
    handle->replaces = handle->rewrites = false;
}

void handle_refresh(struct handle *handle, struct content *content)
{
    struct content *old = NULL;

    pthread_mutex_lock(&handle->lock);
    if (!handle->storing && !handle->dirty) {
        old = handle->content;
        handle->content = content_ref(content);
        forget_data(handle);
        handle->stored_by_write = false;
    }
    pthread_mutex_unlock(&handle->lock);
    content_unref(old);
}

/* handle.lock is held. */
static bool has_version(const struct handle *handle, uint64_t version, const struct content *of)
{
    const struct consul_kv_entry *entry = handle->content ? handle->content->entry : NULL;

    return !handle->storing && entry && content_version(handle->content) == version &&
           entry->key_len == of->entry->key_len && memcmp(entry->data, of->entry->data, entry->key_len) == 0;
}

static bool is_in(struct handle *handle, const char *datacenter)
{
    char *name = NULL, decoded[NAME_SIZE];
    bool same;

    if (!inode_is_below(&handle->fs->inodes, handle->inode, &kind_datacenter, &name))
        return !datacenter;
    same = name && datacenter && name_decode(name, NULL, decoded, sizeof(decoded)) == 0 &&
           strcmp(decoded, datacenter) == 0;
    free(name);
    return same;
}

void handle_reindex(struct fs *fs, const char *datacenter, uint64_t before, struct content *content)
{
    pthread_mutex_lock(&fs->open_lock);
    for (struct handle *handle = fs->handles; handle; handle = handle->next) {
        struct content *old = NULL;
        bool same;

        pthread_mutex_lock(&handle->lock);
        same = has_version(handle, before, content);
        pthread_mutex_unlock(&handle->lock);
        if (!same || !is_in(handle, datacenter)) /* the latter not while handle.lock is held */
            continue;
        pthread_mutex_lock(&handle->lock);
        if (has_version(handle, before, content)) {
            old = handle->content;
            handle->content = content_ref(content);
        }
        pthread_mutex_unlock(&handle->lock);
        content_unref(old);
    }
    pthread_mutex_unlock(&fs->open_lock);
}

void handle_lose(struct handle *handle)
{
    pthread_mutex_lock(&handle->lock);
    handle->dropped = handle->dirty;
    handle->lost = true;
    handle->dirty = false;
    handle->refused = -EIO;
    pthread_mutex_unlock(&handle->lock);
}

bool handle_is_lost(struct handle *handle)
{
    bool lost;

    pthread_mutex_lock(&handle->lock);
    lost = handle->lost;
    pthread_mutex_unlock(&handle->lock);
    return lost;
}

bool handle_lost_data(struct handle *handle)
{
    bool lost;

    pthread_mutex_lock(&handle->lock);
    lost = handle->lost && handle->dropped;
    handle->dropped = false;
    pthread_mutex_unlock(&handle->lock);
    return lost;
}

void handle_set_stream(struct handle *handle, struct stream *stream)
{
    pthread_mutex_lock(&handle->fs->open_lock);
    handle->stream = stream;
    pthread_mutex_unlock(&handle->fs->open_lock);
}

uint64_t handle_stream_size(struct fs *fs, const struct inode *inode, pid_t pid)
{
    const struct handle *best = NULL;
    uint64_t size;

    pthread_mutex_lock(&fs->open_lock);
    for (const struct handle *handle = fs->handles; handle; handle = handle->next) {
        if (handle->inode != inode || !handle->stream)
            continue;
        if (!best || handle->pid == pid)
            best = handle;
        if (handle->pid == pid)
            break;
    }
    size = best ? stream_size(best->stream) : 0;
    pthread_mutex_unlock(&fs->open_lock);
    return size;
}

int handle_all(struct fs *fs, handle_wanted *wanted, const void *what, struct handle ***ret_handles, size_t *ret_n)
{
    struct handle **handles = NULL;
    size_t n = 0, cap = 0;
    int r = 0;

    pthread_mutex_lock(&fs->open_lock);
    for (struct handle *handle = fs->handles; handle && r == 0; handle = handle->next) {
        pthread_mutex_lock(&handle->lock);
        if (handle->refs > 0 && (!wanted || wanted(handle, what))) { /* without references it is about to be freed */
            if (n == cap) {
                struct handle **more = realloc(handles, (cap = cap ? cap * 2 : 8) * sizeof(*more));

                if (more)
                    handles = more;
                else
                    r = -ENOMEM;
            }
            if (r == 0) {
                handle->refs++;
                handles[n++] = handle;
            }
        }
        pthread_mutex_unlock(&handle->lock);
    }
    pthread_mutex_unlock(&fs->open_lock);
    if (r < 0) {
        while (n > 0)
            handle_unref(handles[--n]);
        free(handles);
        return r;
    }
    *ret_handles = handles;
    *ret_n = n;
    return 0;
}

void handle_free_all(struct fs *fs)
{
    while (fs->handles)
        handle_free(fs->handles);
}

/* ---- the value; handle.lock is held ------------------------------------------------------------------------------ */

static int reserve(struct handle *handle, size_t len)
{
    size_t cap = handle->cap ? handle->cap : 4096;
    char *data;

    if (len <= handle->cap)
        return 0;
    while (cap < len)
        cap *= 2;
    data = realloc(handle->data, cap);
    if (!data)
        return -ENOMEM;
    handle->data = data;
    handle->cap = cap;
    return 0;
}

/* Starts from the value that is there. */
static int load(struct handle *handle)
{
    size_t len = handle->content && !handle->replaces && !handle_appends(handle) ? handle->content->len : 0;
    int r;

    if (handle->data)
        return 0;
    r = reserve(handle, len > 0 ? len : 1);
    if (r < 0)
        return r;
    if (len > 0)
        memcpy(handle->data, handle->content->data, len);
    handle->len = len;
    return 0;
}

static int resize(struct handle *handle, uint64_t len, size_t max)
{
    int r;

    if (len > max)
        return -EFBIG;
    r = load(handle);
    if (r == 0)
        r = reserve(handle, (size_t)len);
    if (r < 0)
        return r;
    if (len > handle->len)
        memset(handle->data + handle->len, 0, (size_t)len - handle->len);
    handle->len = (size_t)len;
    return 0;
}

static void changed(struct handle *handle)
{
    handle->dirty = true;
    handle->flushed = false;
}

int handle_write(struct handle *handle, const char *data, size_t len, uint64_t offset, size_t max)
{
    int r;

    pthread_mutex_lock(&handle->lock);
    r = handle->refused ? handle->refused : load(handle);
    if (r == 0 && handle->flags & O_APPEND)
        offset = handle->len;
    if (r == 0 && (len > max || offset > max - len))
        r = -EFBIG;
    if (r == 0 && offset + len > handle->len)
        r = resize(handle, offset + len, max);
    if (r == 0) {
        memcpy(handle->data + offset, data, len);
        changed(handle);
    }
    pthread_mutex_unlock(&handle->lock);
    return r;
}

/* What was to be appended becomes a part of the value that is about to be cut. */
static int begin_rewrite(struct handle *handle)
{
    char *appended = handle->data;
    size_t len = handle->len;
    int r;

    handle->data = NULL;
    handle->len = handle->cap = 0;
    handle->rewrites = true;
    r = load(handle);
    if (r == 0 && len > 0)
        r = reserve(handle, handle->len + len);
    if (r == 0 && len > 0) {
        memcpy(handle->data + handle->len, appended, len);
        handle->len += len;
    }
    free(appended);
    return r;
}

int handle_truncate(struct handle *handle, uint64_t len, size_t max)
{
    int r = 0;

    pthread_mutex_lock(&handle->lock);
    if (handle->lost)
        r = -EIO;
    if (r == 0 && handle_appends(handle))
        r = begin_rewrite(handle);
    if (r == 0)
        r = resize(handle, len, max);
    if (r == 0) {
        changed(handle);
        handle->refused = 0; /* another value */
    }
    pthread_mutex_unlock(&handle->lock);
    return r;
}

/* handle.lock is held. How long the value would be if it were stored now. */
static size_t value_len(const struct handle *handle)
{
    size_t len = 0;

    if (handle->content && !handle->replaces && (!handle->data || handle_appends(handle)))
        len = handle->content->len;
    return handle->data ? len + handle->len : len;
}

int handle_allocate(struct handle *handle, uint64_t offset, uint64_t len, bool keep_size, bool zero, size_t max)
{
    uint64_t end = offset + len;
    size_t present;
    int r;

    pthread_mutex_lock(&handle->lock);
    r = handle->refused;
    present = value_len(handle);
    if (zero && keep_size && end > present)
        end = present; /* a hole beyond the end is none */
    if (r == 0 && end > max)
        r = -EFBIG;
    if (r < 0 || (zero ? offset >= end : keep_size || end <= present)) /* room that is not used is always there */
        goto out;
    r = handle_appends(handle) ? begin_rewrite(handle) : load(handle);
    if (r == 0 && end > handle->len)
        r = resize(handle, end, max);
    if (r == 0 && zero)
        memset(handle->data + offset, 0, (size_t)(end - offset));
    if (r == 0)
        changed(handle);
out:
    pthread_mutex_unlock(&handle->lock);
    return r;
}

int handle_read(struct handle *handle, uint64_t offset, size_t size, char **ret_data, size_t *ret_len)
{
    const struct content *old = NULL;
    size_t before, len;
    char *copy = NULL;

    pthread_mutex_lock(&handle->lock);
    if (handle->lost) {
        pthread_mutex_unlock(&handle->lock);
        return -EIO;
    }
    if (handle->content && !handle->replaces && (!handle->data || handle_appends(handle)))
        old = handle->content;
    before = old ? old->len : 0; /* and behind it what is written */
    len = value_len(handle);
    len = offset < len ? len - (size_t)offset : 0;
    if (len > size)
        len = size;
    if (len > 0)
        copy = malloc(len);
    if (copy) {
        size_t from_old = offset < before ? before - (size_t)offset : 0;

        if (from_old > len)
            from_old = len;
        if (from_old > 0)
            memcpy(copy, old->data + offset, from_old);
        if (len > from_old)
            memcpy(copy + from_old, handle->data + (offset + from_old - before), len - from_old);
    }
    pthread_mutex_unlock(&handle->lock);
    if (len > 0 && !copy)
        return -ENOMEM;
    *ret_data = copy;
    *ret_len = len;
    return 0;
}

bool handle_refuse(struct handle *handle, int err)
{
    bool first;

    pthread_mutex_lock(&handle->lock);
    first = handle->refused == 0;
    handle->refused = err;
    handle->dirty = false;
    pthread_mutex_unlock(&handle->lock);
    return first;
}

size_t handle_len(struct handle *handle)
{
    size_t len;

    pthread_mutex_lock(&handle->lock);
    len = value_len(handle);
    pthread_mutex_unlock(&handle->lock);
    return len;
}

void handle_set_flushed(struct handle *handle)
{
    pthread_mutex_lock(&handle->lock);
    handle->flushed = !handle->dirty;
    pthread_mutex_unlock(&handle->lock);
}

bool handle_is_flushed(struct handle *handle)
{
    bool flushed;

    pthread_mutex_lock(&handle->lock);
    flushed = handle->flushed && !handle->dirty && !handle->storing;
    pthread_mutex_unlock(&handle->lock);
    return flushed;
}

/* ---- storing ----------------------------------------------------------------------------------------------------- */

/* handle.lock is held. The value as it is now; appended bytes are handed over, so that each is stored once. */
static int take_value(struct handle *handle, char **ret_data, size_t *ret_len)
{
    char *data;

    handle->appends = handle_appends(handle);
    if (handle->appends) {
        *ret_data = handle->data;
        *ret_len = handle->len;
        handle->data = NULL;
        handle->len = handle->cap = 0;
        return 0;
    }
    data = malloc(handle->len + 1);
    if (!data)
        return -ENOMEM;
    if (handle->len > 0)
        memcpy(data, handle->data, handle->len);
    *ret_data = data;
    *ret_len = handle->len;
    return 0;
}

int handle_begin_store(struct handle *handle, struct op *op, char **ret_data, size_t *ret_len)
{
    int r = 0;

    pthread_mutex_lock(&handle->lock);
    if (handle->storing) {
        struct op **end = &handle->queue;

        while (*end)
            end = &(*end)->next;
        op->next = NULL;
        *end = op;
        r = -EINPROGRESS;
    } else if (handle->dirty) {
        r = take_value(handle, ret_data, ret_len);
        if (r == 0) {
            handle->storing = true;
            handle->dirty = false; /* a refused value is not tried again behind the writer's back */
            r = 1;
        }
    }
    pthread_mutex_unlock(&handle->lock);
    return r;
}

void handle_see(struct handle *handle, uint64_t before, struct content *content)
{
    struct content *old = NULL;

    pthread_mutex_lock(&handle->lock);
    if (!handle->storing && !handle->dirty && !handle->refused && handle->content &&
        content_version(handle->content) == before) {
        old = handle->content;
        handle->content = content_ref(content);
        forget_data(handle);
    }
    pthread_mutex_unlock(&handle->lock);
    content_unref(old);
}

/* The same value would be refused again; programs that buffer try a failed write a second time when they close. */
static bool is_refusal(int err)
{
    return err == -EACCES || err == -EPERM || err == -EINVAL || err == -EFBIG || err == -ESTALE;
}

void handle_end_store(struct handle *handle, int err, struct content *content)
{
    struct content *old = NULL;
    struct op *queue;

    pthread_mutex_lock(&handle->lock);
    handle->storing = false;
    if (err == 0) {
        old = handle->content;
        handle->content = content ? content_ref(content) : NULL;
        if (handle->flags & O_APPEND && !handle->dirty) /* replaced or rewritten: what is written next is appended */
            forget_data(handle);
    } else if (is_refusal(err)) {
        handle->refused = err;
    }
    queue = handle->queue;
    handle->queue = NULL;
    pthread_mutex_unlock(&handle->lock);
    content_unref(old);
    while (queue) {
        struct op *next = queue->next;

        queue->next = NULL;
        op_wake(queue);
        queue = next;
    }
}
