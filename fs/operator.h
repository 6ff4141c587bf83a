/* operator/: the servers' Raft, autopilot, gossip keys, backups. */
#ifndef CONSULFS_OPERATOR_H
#define CONSULFS_OPERATOR_H

#include "tree.h"

extern const struct kind kind_operator;

#endif
