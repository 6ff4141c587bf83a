/* The agent that the mount talks to: reaching it first, and what it says of itself. */
#ifndef CONSULFS_AGENT_H
#define CONSULFS_AGENT_H

#include "fs.h"

void agent_init(struct agent_facts *facts);
void agent_destroy(struct agent_facts *facts);

/*
 * Waits until the agent has answered. 0, or a negative errno with one line for people in *ret_error, which the caller
 * frees. Not on the network thread.
 */
int agent_connect(struct fs *fs, char **ret_error);
/* For delay_connect: a thread that connects as soon as the agent is there. agent_stop() ends it. */
int agent_connect_later(struct fs *fs);
void agent_stop(struct fs *fs);

/* Consul denied something. */
void agent_denied(struct fs *fs);
/* Whether what a list does not have may be there all the same, without the server saying that it left something out. */
bool agent_may_hide(struct fs *fs);

#endif
