#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Documentation/filesystems/proc.rst, "/proc/<pid>/fdinfo/<fd>". */
static bool is_open_for_writing(const char *path, uint64_t ino, uint64_t node_id)
{
    FILE *file = fopen(path, "re");
    bool same = false, writes = false;
    unsigned flags;
    uint64_t number;
    char line[256];

    if (!file)
        return false;
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "flags: %o", &flags) == 1)
            writes = (flags & O_ACCMODE) != O_RDONLY;
        else if (sscanf(line, "ino: %" SCNu64, &number) == 1)
            same = number == ino || number == node_id;
    }
    fclose(file);
    return same && writes;
}

bool process_has_open(pid_t pid, uint64_t ino, uint64_t node_id)
{
    char path[64];
    struct dirent *entry;
    bool open = false;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
    dir = opendir(path);
    if (!dir)
        return false;
    while (!open && (entry = readdir(dir))) {
        char name[64 + sizeof(entry->d_name)];

        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        open = is_open_for_writing(name, ino, node_id);
    }
    closedir(dir);
    return open;
}

bool process_is_same(pid_t a, pid_t b)
{
    char path[64];

    if (a == b)
        return true;
    snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)a, (int)b);
    return a > 0 && b > 0 && access(path, F_OK) == 0;
}

bool process_is_there(pid_t pid) { return pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH; }
