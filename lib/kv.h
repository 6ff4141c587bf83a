/* KV entries and ordered lists of them, decoded from what /v1/kv and /v1/txn answer. Pure: no I/O, no globals. */
#ifndef CONSUL_LIB_KV_H
#define CONSUL_LIB_KV_H

#include "consul.h"

/* Parses an answer with KV entries (NUL-terminated), whatever their Flags. NULL when it is no JSON. */
json_t *kv_json_parse(const char *body, size_t len);
/*
 * Decodes the array (NUL-terminated text) that a GET of a key or prefix answers. Entries of `old`, which may be NULL,
 * that are still at the same ModifyIndex are shared with it, so that "unchanged" is the same pointer and costs no
 * second copy. -EIO: it is no such array.
 */
int kv_list_parse(const char *body, size_t len, const struct consul_kv_list *old, struct consul_kv_list *ret_list);
#define KV_SESSION_SIZE 40 /* an ID is a UUID; nothing longer is ever in an entry */
/* As consul_kv_entry_new(), of a key that this session has locked; "" or NULL: that is not locked. */
struct consul_kv_entry *kv_entry_new(const char *key, size_t key_len, const void *value, size_t value_len,
                                     const char *session);
/* One element; session, flags and indices included. */
int kv_entry_decode(const json_t *object, struct consul_kv_entry **ret_entry);
/* A copy of the list in which `entry` stands for its key, or, with entry NULL, `key` is gone. */
int kv_list_patch(const struct consul_kv_list *list, const char *key, struct consul_kv_entry *entry,
                  struct consul_kv_list *ret_list);
/* A copy of what begins with `prefix`. */
int kv_list_part(const struct consul_kv_list *list, const char *prefix, struct consul_kv_list *ret_list);
/*
 * What all keys begin with in the first part of such an answer, which may end anywhere; the caller's. NULL: that is
 * nothing, there is none that is whole, or no memory.
 */
char *kv_text_common(const char *text, size_t len);
/* Roughly how many bytes of the answer that is `list` tell what changed after `before`, which was at `index`. */
size_t kv_list_news(const struct consul_kv_list *before, uint64_t index, const struct consul_kv_list *list);
bool kv_list_same(const struct consul_kv_list *a, const struct consul_kv_list *b);
void kv_list_clear(struct consul_kv_list *list);

/* How many of Consul's operations one of ours is. */
unsigned kv_op_count(enum consul_kv_verb verb);
/* The body of PUT /v1/txn. -EINVAL: a key that is no UTF-8. */
int kv_txn_encode(const struct consul_kv_op *ops, size_t n, char **ret_body, size_t *ret_len);

#endif
