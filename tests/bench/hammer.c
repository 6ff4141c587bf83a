/*
 * hammer [-c CLIENTS] [-n OPERATIONS | -s SECONDS] [-p PAUSE] [-a ADDRESS] [-d DATA] WHAT TARGET...
 * hammer … -f FILE WHAT          the targets, one a line
 *
 * Each client is a process of its own, as the users of a file system are, and goes round the targets from a place of
 * its own. WHAT: `read` (open, read to the end, close), `stat`, `write` (open as a shell's > does, write, close), `get`
 * and `put` (HTTP on a connection that is kept, to ADDRESS), `run` (the target is a command line; its words are
 * separated by blanks). PAUSE is in microseconds, between operations. What is
 * written is DATA, or else a new number each time. -1: all targets once, shared among the clients.
 * Prints how long one operation took, in nanoseconds, as JSON.
 */
#include "ask.h"
#include "histogram.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct client {
    struct histogram times;
    uint64_t errors;
    char padding[64];
};

struct work {
    const char *what, *address, *data;
    size_t data_len;
    char **targets;
    size_t target_n;
    uint64_t operations; /* 0: until the time is over */
    uint64_t run_ns;
    unsigned pause_us;
    bool once;
};

extern char **environ;

static int do_read(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    do
        n = read(fd, buffer, size);
    while (n == (ssize_t)size);
    close(fd);
    return n < 0 ? -EIO : 0;
}

/* The data, or where there is none a number that is new each time. */
static const char *next_data(const struct work *work, size_t *ret_len)
{
    static char number[32];

    if (work->data) {
        *ret_len = work->data_len;
        return work->data;
    }
    *ret_len = (size_t)snprintf(number, sizeof(number), "%llu\n", (unsigned long long)now_ns());
    return number;
}

static int do_write(const char *path, const char *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok;

    if (fd < 0)
        return -errno;
    ok = write(fd, data, len) == (ssize_t)len;
    return close(fd) < 0 || !ok ? -EIO : 0;
}

static int do_run(const char *line)
{
    char words[4096], *argv[64], *rest = NULL;
    posix_spawn_file_actions_t actions;
    size_t n = 0;
    int status, r;
    pid_t pid;

    snprintf(words, sizeof(words), "%s", line);
    for (char *word = strtok_r(words, " ", &rest); word && n < 63; word = strtok_r(NULL, " ", &rest))
        argv[n++] = word;
    argv[n] = NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    r = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (r != 0)
        return -r;
    if (waitpid(pid, &status, 0) != pid)
        return -errno;
    return status == 0 ? 0 : -EIO;
}

static int operate(const struct work *work, struct ask *ask, const char *target)
{
    static char buffer[1 << 20];
    const char *data;
    struct stat st;
    size_t len;
    int r;

    switch (*work->what) {
    case 's':
        return stat(target, &st) < 0 ? -errno : 0;
    case 'w':
        data = next_data(work, &len);
        return do_write(target, data, len);
    case 'g':
        r = ask_request(ask, "GET", target, NULL, 0);
        return r < 0 ? r : r == 200 ? 0 : -EIO;
    case 'p':
        data = next_data(work, &len);
        r = ask_request(ask, "PUT", target, data, len);
        return r < 0 ? r : r == 200 ? 0 : -EIO;
    case 'r':
        return work->what[1] == 'u' ? do_run(target) : do_read(target, buffer, sizeof(buffer));
    default:
        return -EINVAL;
    }
}

/* In the client's process. Says on `ready` that it is, and begins when `start` is closed. */
static void be_client(const struct work *work, struct client *client, size_t number, size_t clients, int ready,
                      int start)
{
    bool http = *work->what == 'g' || *work->what == 'p';
    size_t step = work->once ? clients : 1;
    struct ask ask = {.fd = -1};
    uint64_t end;
    char c = 0;

    if (http && ask_connect(&ask, work->address) < 0) {
        client->errors++;
        http = false;
    }
    if (write(ready, &c, 1) != 1 || read(start, &c, 1) != 0)
        _exit(1);
    if (client->errors)
        _exit(1);
    end = now_ns() + work->run_ns;
    for (uint64_t i = 0; work->once ? number + i * step < work->target_n : !work->operations || i < work->operations;
         i++) {
        uint64_t began = now_ns();

        if (!work->once && !work->operations && began >= end)
            break;
        if (operate(work, &ask, work->targets[(number + i * step) % work->target_n]) < 0)
            client->errors++;
        histogram_add(&client->times, now_ns() - began);
        if (work->pause_us)
            usleep(work->pause_us);
    }
    _exit(0);
}

static char **read_lines(const char *path, size_t *ret_n)
{
    FILE *file = fopen(path, "r");
    char **lines = NULL, *line = NULL;
    size_t n = 0, size = 0;
    ssize_t len;

    if (!file)
        return NULL;
    while ((len = getline(&line, &size, file)) > 0) {
        if (line[len - 1] == '\n')
            line[len - 1] = '\0';
        if (n % 1024 == 0)
            lines = realloc(lines, (n + 1024) * sizeof(*lines));
        if (!lines)
            break;
        lines[n++] = strdup(line);
    }
    free(line);
    fclose(file);
    *ret_n = n;
    return lines;
}

int main(int argc, char **argv)
{
    struct work work = {.run_ns = 1000000000u};
    size_t clients = 1, started = 0;
    static struct histogram all;
    int ready[2], start[2], option;
    const char *file = NULL;
    struct client *shared;
    uint64_t began, wall, errors = 0;
    char c;

    while ((option = getopt(argc, argv, "c:n:s:p:a:d:f:1")) != -1) {
        switch (option) {
        case 'c':
            clients = strtoul(optarg, NULL, 10);
            break;
        case 'n':
            work.operations = strtoul(optarg, NULL, 10);
            break;
        case 's':
            work.run_ns = (uint64_t)(atof(optarg) * 1e9);
            break;
        case 'p':
            work.pause_us = (unsigned)atoi(optarg);
            break;
        case 'a':
            work.address = optarg;
            break;
        case 'd':
            work.data = optarg;
            work.data_len = strlen(optarg);
            break;
        case 'f':
            file = optarg;
            break;
        case '1':
            work.once = true;
            break;
        default:
            return 2;
        }
    }
    if (optind == argc)
        return 2;
    work.what = argv[optind++];
    work.targets = argv + optind;
    work.target_n = (size_t)(argc - optind);
    if (file)
        work.targets = read_lines(file, &work.target_n);
    if (work.target_n == 0 || clients == 0)
        return 2;

    shared = mmap(NULL, clients * sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || pipe(ready) < 0 || pipe(start) < 0)
        return 1;
    for (; started < clients; started++) {
        pid_t pid = fork();

        if (pid < 0)
            break;
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(ready[0]);
            close(start[1]);
            be_client(&work, &shared[started], started, clients, ready[1], start[0]);
        }
    }
    close(ready[1]);
    for (size_t i = 0; i < started && read(ready[0], &c, 1) == 1; i++)
        ;
    began = now_ns();
    close(start[1]);
    while (wait(NULL) > 0)
        ;
    wall = now_ns() - began;
    for (size_t i = 0; i < started; i++) {
        histogram_merge(&all, &shared[i].times);
        errors += shared[i].errors;
    }
    histogram_print(&all, errors, wall);
    return started == clients ? 0 : 1;
}
