/*
 * propagate [-r RATE] [-s SECONDS] [-k KEYS] [-v SIZE] ADDRESS PREFIX [DIRECTORY]
 *
 * How long after Consul has answered its writer a change can be read elsewhere. One process PUTs numbers that grow to
 * PREFIX0, PREFIX1, …, in turn, RATE a second. Another looks at each of the files DIRECTORY/0, … again and again;
 * without a directory it asks Consul itself, by blocking queries on the prefix: the least that there can be. A number
 * that was overtaken counts as readable when a later one of its key is. A number that goes back is an error. Values are
 * padded with blanks to SIZE.
 */
#include "ask.h"
#include "histogram.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHANGES_MAX 100000
#define KEYS_MAX 100
#define VALUE_MAX 8192

static struct shared {
    atomic_uint_fast64_t answered_ns[CHANGES_MAX]; /* by number; 0: not yet */
    atomic_uint_fast64_t failed;
    atomic_uint_fast64_t written; /* how many, when the writer has ended */
} * shared;

static unsigned keys = 1;
static int value_size = 1;
static uint64_t base; /* the numbers of this run come after it, those of another before */

static uint64_t seen[KEYS_MAX]; /* the newest number of each key that was read */
static struct histogram times;
static uint64_t errors;

static void write_all(const char *address, const char *prefix, double rate, double seconds)
{
    uint64_t began = now_ns(), n, total = (uint64_t)(rate * seconds);
    struct ask ask;

    if (ask_connect(&ask, address) < 0)
        _exit(1);
    for (n = 1; n <= total && n < CHANGES_MAX; n++) {
        uint64_t due = began + (uint64_t)((double)n / rate * 1e9), now = now_ns();
        char target[512], value[VALUE_MAX];
        int len = snprintf(value, sizeof(value), "%-*llu", value_size, (unsigned long long)(base + n));

        if (due > now)
            usleep((useconds_t)((due - now) / 1000));
        snprintf(target, sizeof(target), "/v1/kv/%s%u", prefix, (unsigned)(n % keys));
        if (ask_request(&ask, "PUT", target, value, (size_t)len) != 200)
            shared->failed++;
        shared->answered_ns[n] = now_ns();
    }
    shared->written = n - 1;
    _exit(0);
}

/* Notes that the newest number of a key is this one. */
static void saw(unsigned key, uint64_t number)
{
    uint64_t now = now_ns();

    number = number > base ? number - base : 0;
    if (number < seen[key]) {
        fprintf(stderr, "key %u went back from change %llu to %llu\n", key, (unsigned long long)seen[key],
                (unsigned long long)number);
        errors++;
    }
    for (uint64_t n = seen[key] + 1; n <= number && n < CHANGES_MAX; n++) {
        uint64_t answered;

        if (n % keys != key)
            continue;
        /* The reader can be there before the writer has its answer. */
        answered = shared->answered_ns[n];
        histogram_add(&times, answered && answered < now ? now - answered : 0);
    }
    if (number > seen[key])
        seen[key] = number;
}

static bool all_seen(void)
{
    uint64_t written = shared->written, least = written;

    for (unsigned i = 0; i < keys; i++)
        least = seen[i] < least ? seen[i] : least;
    return written && least + keys > written;
}

static void look_at_files(const char *directory, uint64_t deadline)
{
    while (!all_seen() && now_ns() < deadline) {
        for (unsigned i = 0; i < keys; i++) {
            char path[4096], value[VALUE_MAX];
            ssize_t n;
            int fd;

            snprintf(path, sizeof(path), "%s/%u", directory, i);
            fd = open(path, O_RDONLY | O_CLOEXEC);
            n = fd < 0 ? -1 : read(fd, value, sizeof(value) - 1);
            if (n < 0) {
                fprintf(stderr, "%s: %s: %s\n", fd < 0 ? "open" : "read", path, strerror(errno));
                errors++;
            }
            if (fd >= 0)
                close(fd);
            if (n < 0) {
                continue;
            }
            value[n] = '\0';
            saw(i, strtoull(value, NULL, 10));
        }
        usleep(200); /* who asks without a pause takes the processor from those that are measured */
    }
}

/* The text of the next field of this name, NULL where there is none. Agents in dev mode put blanks after the colon. */
static const char *next_text(const char *json, const char *field)
{
    json = strstr(json, field);
    if (!json)
        return NULL;
    json += strlen(field);
    json += strspn(json, ": ");
    return *json == '"' ? json + 1 : NULL;
}

/* Of `?recurse`, whose entries have "Key" before "Value". */
static void look_at_answer(const char *body, const char *prefix)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t len = strlen(prefix);

    while ((body = next_text(body, "\"Key\"")) != NULL) {
        unsigned key = (unsigned)atoi(body + len);
        const char *value = next_text(body, "\"Value\"");
        uint64_t number = 0;
        unsigned bits = 0, have = 0;

        if (!value)
            break;
        for (; *value && *value != '"' && *value != '='; value++) {
            bits = bits << 6 | (unsigned)(strchr(alphabet, *value) - alphabet);
            have += 6;
            if (have >= 8) {
                unsigned c = bits >> (have - 8) & 0xff;

                have -= 8;
                if (c >= '0' && c <= '9')
                    number = number * 10 + (c - '0');
            }
        }
        if (key < keys)
            saw(key, number);
        body = value;
    }
}

static void ask_for_changes(const char *address, const char *prefix, uint64_t deadline)
{
    struct ask ask;

    if (ask_connect(&ask, address) < 0) {
        errors++;
        return;
    }
    while (!all_seen() && now_ns() < deadline) {
        char target[512];

        snprintf(target, sizeof(target), "/v1/kv/%s?recurse&wait=1s&index=%llu", prefix, (unsigned long long)ask.index);
        if (ask_request(&ask, "GET", target, NULL, 0) != 200) {
            errors++;
            break;
        }
        ask.body[ask.body_len] = '\0';
        look_at_answer(ask.body, prefix);
    }
    ask_close(&ask);
}

int main(int argc, char **argv)
{
    double rate = 100, seconds = 3;
    uint64_t began = now_ns(), deadline;
    int option;
    pid_t pid;

    while ((option = getopt(argc, argv, "r:s:k:v:")) != -1) {
        if (option == 'r')
            rate = atof(optarg);
        else if (option == 's')
            seconds = atof(optarg);
        else if (option == 'k')
            keys = (unsigned)atoi(optarg);
        else if (option == 'v')
            value_size = atoi(optarg);
        else
            return 2;
    }
    if (argc - optind < 2 || argc - optind > 3 || keys == 0 || keys > KEYS_MAX || value_size < 1 ||
        value_size >= VALUE_MAX)
        return 2;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    base = began;
    pid = fork();
    if (pid < 0)
        return 1;
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_all(argv[optind], argv[optind + 1], rate, seconds);
    }
    deadline = began + (uint64_t)((seconds + 10) * 1e9);
    if (argc - optind == 3)
        look_at_files(argv[optind + 2], deadline);
    else
        ask_for_changes(argv[optind], argv[optind + 1], deadline);
    if (!all_seen())
        errors++;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    histogram_print(&times, errors + shared->failed, now_ns() - began);
    return 0;
}
