/*
 * fsx FILE SEED OPERATIONS MAX_LEN: random I/O on one file, compared after each operation with what a file must hold.
 *
 * After the idea of Apple's fsx. The twin is a buffer in memory. What is done is written to the standard output only
 * when it goes wrong: the last operations, then what was expected. Status 0: all agreed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_LINES 200
#define LOG_WIDTH 120

static const char *path;
static uint64_t seed;
static size_t max_len;
static int fd = -1;
static bool clean; /* nothing was changed through fd since it was last stored */

static unsigned char *twin, *buffer;
static size_t twin_len;

static char log_lines[LOG_LINES][LOG_WIDTH];
static uint64_t log_n;

/* splitmix64: the same everywhere. */
static uint64_t next_random(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t random_below(size_t n) { return n ? (size_t)(next_random() % n) : 0; }

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(log_lines[log_n++ % LOG_LINES], LOG_WIDTH, format, args);
    va_end(args);
}

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list args;

    for (uint64_t i = log_n > LOG_LINES ? log_n - LOG_LINES : 0; i < log_n; i++)
        printf("%" PRIu64 ": %s\n", i, log_lines[i % LOG_LINES]);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    exit(1);
}

/* Does `got` hold what the file must hold at `offset`? */
static void compare(const char *what, const unsigned char *got, size_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (got[i] != twin[offset + i])
            fail("%s: byte %zu is %02x, not %02x; the file has %zu bytes", what, offset + i, got[i], twin[offset + i],
                 twin_len);
}

static void check_size(void)
{
    struct stat by_fd, by_name;

    if (fstat(fd, &by_fd) < 0 || stat(path, &by_name) < 0)
        fail("stat: %s", strerror(errno));
    if ((size_t)by_fd.st_size != twin_len)
        fail("fstat: %zu bytes, not %zu", (size_t)by_fd.st_size, twin_len);
    if ((size_t)by_name.st_size != twin_len)
        fail("stat: %zu bytes, not %zu", (size_t)by_name.st_size, twin_len);
}

static void grow_twin(size_t len)
{
    if (len > twin_len) {
        memset(twin + twin_len, 0, len - twin_len);
        twin_len = len;
    }
}

/* A range that lies in the file, or goes beyond its end; mostly small, sometimes aligned to what programs use. */
static void random_range(size_t *ret_offset, size_t *ret_len)
{
    static const size_t units[] = {1, 1, 1, 512, 4096};
    size_t unit = units[random_below(5)], longest = random_below(8) == 0 ? 100000 : 3000;
    size_t offset = random_below(4) == 0 ? random_below(max_len) : random_below(twin_len + 1);
    size_t len = 1 + random_below(longest);

    offset -= offset % unit;
    len = unit == 1 ? len : (len + unit - 1) / unit * unit;
    if (offset >= max_len)
        offset = max_len - 1;
    *ret_offset = offset;
    *ret_len = len < max_len - offset ? len : max_len - offset;
}

static void fill(size_t len)
{
    unsigned char byte = (unsigned char)next_random();

    for (size_t i = 0; i < len; i++)
        buffer[i] = (unsigned char)(byte + i * 7);
}

static void do_read(void)
{
    size_t offset, len, expected;
    ssize_t n;

    random_range(&offset, &len);
    note("read %zu+%zu", offset, len);
    expected = offset < twin_len ? twin_len - offset : 0;
    expected = len < expected ? len : expected;
    n = pread(fd, buffer, len, (off_t)offset);
    if (n != (ssize_t)expected)
        fail("read: %zd of %zu: %s", n, expected, strerror(n < 0 ? errno : 0));
    compare("read", buffer, offset, expected);
}

static void do_write(void)
{
    size_t offset, len;
    ssize_t n;

    random_range(&offset, &len);
    note("write %zu+%zu", offset, len);
    fill(len);
    n = pwrite(fd, buffer, len, (off_t)offset);
    if (n != (ssize_t)len)
        fail("write: %zd: %s", n, strerror(n < 0 ? errno : 0));
    grow_twin(offset + len);
    memcpy(twin + offset, buffer, len);
    clean = false;
}

static void store(void)
{
    if (!clean && fsync(fd) < 0)
        fail("fsync: %s", strerror(errno));
    clean = true;
}

/* Through another descriptor, whose change the first one then sees. */
static void do_append(void)
{
    size_t len = 1 + random_below(2000);
    int other;

    if (len > max_len - twin_len)
        return;
    store();
    note("append %zu", len);
    fill(len);
    other = open(path, O_WRONLY | O_APPEND);
    if (other < 0 || write(other, buffer, len) != (ssize_t)len || close(other) < 0)
        fail("append: %s", strerror(errno));
    memcpy(twin + twin_len, buffer, len);
    twin_len += len;
}

static void do_truncate(void)
{
    size_t len = random_below(4) == 0 ? random_below(max_len) : random_below(twin_len + 1);
    bool by_name = random_below(10) == 0;

    if (by_name)
        store();
    note("truncate%s %zu", by_name ? " by name" : "", len);
    if ((by_name ? truncate(path, (off_t)len) : ftruncate(fd, (off_t)len)) < 0)
        fail("truncate: %s", strerror(errno));
    grow_twin(len);
    twin_len = len;
    clean = by_name;
}

static void do_allocate(void)
{
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    int mode = modes[random_below(5)];
    size_t offset, len, end;

    random_range(&offset, &len);
    note("fallocate mode %d %zu+%zu", mode, offset, len);
    if (fallocate(fd, mode, (off_t)offset, (off_t)len) < 0)
        fail("fallocate: %s", strerror(errno));
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        grow_twin(offset + len);
    end = offset + len < twin_len ? offset + len : twin_len;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && offset < end)
        memset(twin + offset, 0, end - offset);
    clean = false;
}

static void do_map(void)
{
    unsigned char *map;

    if (twin_len == 0)
        return;
    note("mmap %zu", twin_len);
    map = mmap(NULL, twin_len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    compare("mmap", map, 0, twin_len);
    munmap(map, twin_len);
}

static void do_copy_range(void)
{
    size_t from = random_below(twin_len), to = random_below(max_len), len = 1 + random_below(5000);
    loff_t off_in = (loff_t)from, off_out = (loff_t)to;
    ssize_t n;

    if (twin_len == 0)
        return;
    len = len < twin_len - from ? len : twin_len - from;
    len = len < max_len - to ? len : max_len - to;
    if (from < to + len && to < from + len)
        return; /* EINVAL, by definition */
    note("copy_file_range %zu+%zu to %zu", from, len, to);
    n = copy_file_range(fd, &off_in, fd, &off_out, len, 0);
    if (n <= 0)
        fail("copy_file_range: %s", strerror(errno));
    grow_twin(to + (size_t)n);
    memmove(twin + to, twin + from, (size_t)n);
    clean = false;
}

static void do_seek(void)
{
    off_t end = lseek(fd, 0, SEEK_END), offset = (off_t)random_below(twin_len), hole;

    note("lseek");
    if (end != (off_t)twin_len)
        fail("SEEK_END: %jd, not %zu", (intmax_t)end, twin_len);
    if (twin_len == 0)
        return;
    hole = lseek(fd, offset, SEEK_HOLE);
    if (hole < offset || hole > (off_t)twin_len)
        fail("SEEK_HOLE from %jd: %jd", (intmax_t)offset, (intmax_t)hole);
}

/* What another descriptor sees of what is stored, by reading and by mapping. */
static void check_stored(void)
{
    int other = open(path, O_RDONLY);
    struct stat attr;
    unsigned char *map;
    ssize_t n;

    if (other < 0 || fstat(other, &attr) < 0)
        fail("reopen: %s", strerror(errno));
    if ((size_t)attr.st_size != twin_len)
        fail("reopened: %zu bytes, not %zu", (size_t)attr.st_size, twin_len);
    n = pread(other, buffer, max_len, 0);
    if (n != (ssize_t)twin_len)
        fail("reopened: read %zd of %zu", n, twin_len);
    compare("reopened", buffer, 0, twin_len);
    if (fd < 0 && twin_len > 0) { /* while somebody writes only a private one is possible */
        map = mmap(NULL, twin_len, PROT_READ, MAP_SHARED, other, 0);
        if (map == MAP_FAILED)
            fail("shared mmap: %s", strerror(errno));
        compare("shared mmap", map, 0, twin_len);
        munmap(map, twin_len);
    }
    close(other);
}

static void do_fsync(void)
{
    note("fsync");
    clean = false;
    store();
    check_stored();
}

static void do_reopen(void)
{
    static const int flags[] = {O_RDWR, O_RDWR, O_RDWR | O_TRUNC, O_RDWR | O_CREAT};
    int with = flags[random_below(4)];

    note("close, open%s", with & O_TRUNC ? " O_TRUNC" : "");
    if (close(fd) < 0)
        fail("close: %s", strerror(errno));
    fd = -1;
    check_stored();
    fd = open(path, with, 0644);
    if (fd < 0)
        fail("open: %s", strerror(errno));
    if (with & O_TRUNC)
        twin_len = 0;
    clean = !(with & O_TRUNC);
}

static const struct {
    void (*run)(void);
    unsigned weight;
} operations[] = {
    {do_read, 300}, {do_write, 300},     {do_truncate, 80}, {do_allocate, 80}, {do_map, 40},
    {do_seek, 60},  {do_copy_range, 40}, {do_append, 4},    {do_fsync, 6},     {do_reopen, 8},
};

int main(int argc, char **argv)
{
    unsigned long n;
    unsigned total = 0;

    if (argc != 5) {
        fprintf(stderr, "usage: fsx FILE SEED OPERATIONS MAX_LEN\n");
        return 2;
    }
    path = argv[1];
    seed = strtoull(argv[2], NULL, 10);
    n = strtoul(argv[3], NULL, 10);
    max_len = strtoul(argv[4], NULL, 10);
    twin = malloc(max_len);
    buffer = malloc(max_len + 1);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (!twin || !buffer || fd < 0) {
        perror(path);
        return 2;
    }
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        total += operations[i].weight;
    while (n-- > 0) {
        size_t at = random_below(total), i = 0;

        while (at >= operations[i].weight)
            at -= operations[i++].weight;
        operations[i].run();
        if (random_below(4) == 0)
            check_size();
    }
    if (close(fd) < 0)
        fail("close: %s", strerror(errno));
    fd = -1;
    check_stored();
    return 0;
}
