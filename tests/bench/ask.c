#include "ask.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

int ask_connect(struct ask *ask, const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    int one = 1;

    if (!colon || (size_t)(colon - address) >= sizeof(ask->host))
        return -EINVAL;
    memset(ask, 0, sizeof(*ask));
    memcpy(ask->host, address, (size_t)(colon - address));
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, ask->host, &to.sin_addr) != 1)
        return -EINVAL;
    ask->size = 65536;
    ask->buffer = malloc(ask->size);
    ask->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!ask->buffer || ask->fd < 0)
        return -ENOMEM;
    setsockopt(ask->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return connect(ask->fd, (struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

/* Appends what arrives. */
static int more(struct ask *ask)
{
    ssize_t n;

    if (ask->have + 1 >= ask->size) {
        char *bigger = realloc(ask->buffer, ask->size * 2);

        if (!bigger)
            return -ENOMEM;
        ask->buffer = bigger;
        ask->size *= 2;
    }
    n = recv(ask->fd, ask->buffer + ask->have, ask->size - ask->have - 1, 0);
    if (n <= 0)
        return n == 0 ? -ECONNRESET : -errno;
    ask->have += (size_t)n;
    ask->buffer[ask->have] = '\0';
    return 0;
}

/* The value of a header in the head, which ends in a NUL; NULL where there is none. */
static const char *header(const char *head, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (strncasecmp(line, name, len) == 0 && line[len] == ':')
            return line + len + 1;
    }
    return NULL;
}

static int read_length(struct ask *ask, size_t start, size_t len)
{
    int r = 0;

    while (r == 0 && ask->have < start + len)
        r = more(ask);
    ask->body = ask->buffer + start;
    ask->body_len = len;
    return r;
}

/* Moves the chunks together, over their sizes. */
static int read_chunks(struct ask *ask, size_t start)
{
    size_t from = start, to = start, len;
    int r;

    for (;;) {
        const char *end;

        while (!(end = memchr(ask->buffer + from, '\n', ask->have - from))) {
            r = more(ask);
            if (r < 0)
                return r;
        }
        len = strtoul(ask->buffer + from, NULL, 16);
        from = (size_t)(end - ask->buffer) + 1;
        while (ask->have < from + len + 2) {
            r = more(ask);
            if (r < 0)
                return r;
        }
        memmove(ask->buffer + to, ask->buffer + from, len);
        to += len;
        from += len + 2;
        if (len == 0)
            break;
    }
    ask->body = ask->buffer + start;
    ask->body_len = to - start;
    return 0;
}

static int read_answer(struct ask *ask)
{
    const char *end, *value;
    size_t start;
    int status, r;

    ask->have = 0; /* one request at a time: nothing can be left over */
    ask->buffer[0] = '\0';
    while (!(end = strstr(ask->buffer, "\r\n\r\n"))) {
        r = more(ask);
        if (r < 0)
            return r;
    }
    start = (size_t)(end - ask->buffer) + 4;
    ask->buffer[start - 1] = '\0'; /* ends the head; the body follows */
    status = atoi(ask->buffer + strlen("HTTP/1.1 "));
    value = header(ask->buffer, "X-Consul-Index");
    if (value)
        ask->index = strtoull(value, NULL, 10);
    value = header(ask->buffer, "Content-Length");
    r = value ? read_length(ask, start, strtoul(value, NULL, 10)) : read_chunks(ask, start);
    return r < 0 ? r : status;
}

int ask_request(struct ask *ask, const char *method, const char *target, const char *body, size_t body_len)
{
    char head[4096];
    struct iovec parts[2] = {{head, 0}, {(void *)(uintptr_t)body, body ? body_len : 0}};
    int n;

    if (body)
        n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n\r\n", method, target,
                     ask->host, body_len);
    else
        n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, target, ask->host);
    if (n < 0 || (size_t)n >= sizeof(head))
        return -E2BIG;
    parts[0].iov_len = (size_t)n;
    if (writev(ask->fd, parts, body ? 2 : 1) != (ssize_t)((size_t)n + parts[1].iov_len))
        return -EIO;
    return read_answer(ask);
}

void ask_close(struct ask *ask)
{
    if (ask->fd >= 0)
        close(ask->fd);
    free(ask->buffer);
}
