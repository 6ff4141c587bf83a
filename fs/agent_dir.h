/* agent/: the agent that this mount talks to. */
#ifndef CONSULFS_AGENT_DIR_H
#define CONSULFS_AGENT_DIR_H

#include "tree.h"

extern const struct kind kind_agent_dir;

#endif
