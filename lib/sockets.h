/*
 * The sockets that one thread waits for, and a way to wake it: epoll. What a wait costs goes by what has happened, not
 * by how many sockets there are: most are of blocking queries, on which nothing happens for minutes.
 *
 * All but sockets_wake() are for one thread at a time; sockets_watch() also while another waits.
 */
#ifndef CONSUL_LIB_SOCKETS_H
#define CONSUL_LIB_SOCKETS_H

#include <stdbool.h>

struct sockets;

enum { SOCKETS_IN = 1, SOCKETS_OUT = 2, SOCKETS_ERR = 4 };

/* 0 or a negative errno. The caller frees it with sockets_free(), which NULL is fine for. */
int sockets_new(struct sockets **ret_sockets);
void sockets_free(struct sockets *sockets);

/*
 * What the socket is waited for from now on: SOCKETS_IN, SOCKETS_OUT or both; 0: for nothing. Errors come in any case.
 * A socket that is closed is forgotten by itself. Borrowed. 0 or a negative errno.
 */
int sockets_watch(struct sockets *sockets, int fd, unsigned events);

/*
 * Until something has happened or timeout_ms are over; less than 0: however long it takes. `ready` is called for each
 * socket with what it is ready for, and may watch others. One that it closes may still be reported in the same wait.
 */
void sockets_wait(struct sockets *sockets, int timeout_ms, void (*ready)(void *arg, int fd, unsigned events),
                  void *arg);

/* Ends the wait that is under way, or the next one at once. Any thread. */
void sockets_wake(struct sockets *sockets);

#endif
