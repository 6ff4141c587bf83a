/*
 * Extended attributes of keys. The flags can be written, and a lock can be taken and given back for a session; the
 * others are what Consul says, and writing them, as programs do that copy attributes, has no effect (as with times).
 */
#include "kv_parts.h"

#include "content.h"
#include "handle.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "user.consul."

const char *const kv_attributes[] = {
    PREFIX "create_index", PREFIX "modify_index", PREFIX "lock_index", PREFIX "flags", PREFIX "session", NULL,
};

static int show_number(uint64_t number, char value[ATTRIBUTE_SIZE])
{
    return snprintf(value, ATTRIBUTE_SIZE, "%" PRIu64, number);
}

int kv_get_attribute(const struct content *content, const char *attribute, char value[ATTRIBUTE_SIZE])
{
    const struct consul_kv_entry *entry = content ? content->entry : NULL;

    if (!entry)
        return -ENODATA;
    if (strcmp(attribute, PREFIX "create_index") == 0)
        return show_number(entry->create_index, value);
    if (strcmp(attribute, PREFIX "modify_index") == 0)
        return show_number(entry->modify_index, value);
    if (strcmp(attribute, PREFIX "lock_index") == 0)
        return show_number(entry->lock_index, value);
    if (strcmp(attribute, PREFIX "flags") == 0)
        return show_number(entry->flags, value);
    if (strcmp(attribute, PREFIX "session") == 0 && entry->has_session)
        return snprintf(value, ATTRIBUTE_SIZE, "%s", consul_kv_session(entry));
    return -ENODATA;
}

/* Decimal, or 0x and hexadecimal digits. */
static int parse_flags(const char *value, uint64_t *ret_flags)
{
    char *end;

    if (value[0] < '0' || value[0] > '9')
        return -EINVAL;
    errno = 0;
    *ret_flags = strtoull(value, &end, strncmp(value, "0x", 2) == 0 ? 16 : 10);
    return errno || *end ? -EINVAL : 0;
}

/* The flags of what this process is still writing are stored with the value. True if there is such a descriptor. */
static bool give_to_writer(struct op *op, uint64_t flags)
{
    struct inode_table *table = &op->fs->inodes;
    struct handle *writer;
    bool given = false;

    pthread_mutex_lock(&table->lock);
    writer = op->inode->writer ? handle_ref(op->inode->writer) : NULL;
    pthread_mutex_unlock(&table->lock);
    if (!writer)
        return false;
    pthread_mutex_lock(&writer->lock);
    if (writer->dirty && process_is_same(writer->pid, op->pid)) {
        writer->kv_flags = flags;
        writer->kv_flags_given = given = true;
    }
    pthread_mutex_unlock(&writer->lock);
    handle_unref(writer);
    return given;
}

/* The same value, with what is asked for; nobody may have changed the key in between. */
static int begin(struct op *op, struct inode *dir, const char *name, enum consul_kv_verb verb, uint64_t flags,
                 const char *session)
{
    struct kv_place place = {0};
    struct consul_kv_op ops[2];
    size_t n = 0;
    int r = kv_find_place(op, dir, name, &place);

    if (r < 0)
        return r;
    if (!place.entry)
        return -EISDIR;
    op->before = place.entry->modify_index;
    if (verb != CONSUL_KV_CAS)
        ops[n++] = (struct consul_kv_op){
            .verb = CONSUL_KV_CHECK_INDEX, .key = consul_kv_key(place.entry), .index = place.entry->modify_index};
    ops[n++] = (struct consul_kv_op){
        .verb = verb,
        .key = consul_kv_key(place.entry),
        .value = consul_kv_value(place.entry),
        .value_len = place.entry->value_len,
        .flags = verb == CONSUL_KV_CAS ? flags : place.entry->flags,
        .index = place.entry->modify_index,
        .session = session,
    };
    return op_kv_txn(op, ops, n);
}

static int change(struct op *op, struct inode *dir, const char *name, enum consul_kv_verb verb, uint64_t flags,
                  const char *session)
{
    if (op->stage > 0) {
        if (op->result != -ESTALE)
            return op->result;
        if (op->attempts >= KV_CONFLICTS_MAX)
            return -EAGAIN;
        kv_distrust(op);
    }
    return begin(op, dir, name, verb, flags, session);
}

int kv_set_attribute(struct op *op, struct inode *dir, const char *name, const char *attribute, const char *value)
{
    uint64_t flags = 0;
    int r;

    if (strcmp(attribute, PREFIX "flags") == 0) {
        r = value ? parse_flags(value, &flags) : 0;
        if (r < 0)
            return r;
        return op->stage == 0 && give_to_writer(op, flags) ? 0 : change(op, dir, name, CONSUL_KV_CAS, flags, NULL);
    }
    if (strcmp(attribute, PREFIX "acquire") == 0)
        return value ? change(op, dir, name, CONSUL_KV_LOCK, 0, value) : -ENODATA;
    if (strcmp(attribute, PREFIX "release") == 0)
        return value ? change(op, dir, name, CONSUL_KV_UNLOCK, 0, value) : -ENODATA;
    for (size_t i = 0; kv_attributes[i]; i++)
        if (strcmp(attribute, kv_attributes[i]) == 0)
            return 0;
    return value ? -EOPNOTSUPP : -ENODATA;
}
