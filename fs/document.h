/* JSON documents that users write. Pure; any thread. */
#ifndef CONSULFS_DOCUMENT_H
#define CONSULFS_DOCUMENT_H

#include <stddef.h>

/*
 * Whether data is a whole JSON object: 1, or 0 when it ends before the object does (more of it may come in the next
 * write), or -EINVAL when it never will be one.
 */
int document_complete(const char *data, size_t len);

#endif
