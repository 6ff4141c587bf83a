/* acl/: tokens, policies, roles, auth methods and binding rules; for the mount's owner only. */
#ifndef CONSULFS_ACL_H
#define CONSULFS_ACL_H

#include "tree.h"

extern const struct kind kind_acl;

#endif
