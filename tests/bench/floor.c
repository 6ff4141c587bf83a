/*
 * floor [-n] [-s SIZE] MOUNTPOINT: the least that a file system in a process can be, for comparison.
 *
 * One directory with the files `0` to `99`, SIZE bytes each, whose names, attributes and pages the kernel may keep for
 * good: an open is one upcall, and with -n none (ENOSYS: the kernel does not ask again). The name `asked` is never
 * kept: its stat is one upcall each time, which is what a round trip costs.
 */
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 100
#define FIRST_INO 2
#define ASKED_INO (FIRST_INO + FILES)

static bool no_open;
static size_t size = 100;
static char *content;

static const double forever = 1e9;

static struct stat attributes(fuse_ino_t ino)
{
    struct stat st = {.st_ino = ino, .st_nlink = 1, .st_mode = S_IFREG | 0644, .st_size = (off_t)size};

    if (ino == FUSE_ROOT_ID) {
        st.st_mode = S_IFDIR | 0755;
        st.st_size = 0;
    }
    return st;
}

static void floor_init(void *data, struct fuse_conn_info *conn)
{
    (void)data;
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
}

static void floor_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.attr_timeout = forever, .entry_timeout = forever};
    unsigned long number = strtoul(name, NULL, 10);

    (void)parent;
    if (strcmp(name, "asked") == 0) {
        entry.ino = ASKED_INO;
        entry.attr_timeout = entry.entry_timeout = 0;
    } else if (*name >= '0' && *name <= '9' && number < FILES) {
        entry.ino = FIRST_INO + number;
    } else {
        fuse_reply_err(req, ENOENT);
        return;
    }
    entry.attr = attributes(entry.ino);
    fuse_reply_entry(req, &entry);
}

static void floor_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st = attributes(ino);

    (void)fi;
    fuse_reply_attr(req, &st, ino == ASKED_INO ? 0 : forever);
}

static void floor_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (no_open) {
        fuse_reply_err(req, ENOSYS);
        return;
    }
    fi->keep_cache = 1;
    fi->noflush = 1;
    fuse_reply_open(req, fi);
}

static void floor_read(fuse_req_t req, fuse_ino_t ino, size_t len, off_t offset, struct fuse_file_info *fi)
{
    size_t from = (size_t)offset < size ? (size_t)offset : size;

    (void)ino, (void)fi;
    fuse_reply_buf(req, content + from, len < size - from ? len : size - from);
}

static void floor_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = floor_init,
    .lookup = floor_lookup,
    .getattr = floor_getattr,
    .open = floor_open,
    .read = floor_read,
    .release = floor_release,
};

int main(int argc, char **argv)
{
    char *fuse_argv[] = {argv[0], NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, fuse_argv);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    struct fuse_session *session = NULL;
    int option, r = 1;

    while ((option = getopt(argc, argv, "ns:")) != -1) {
        if (option == 'n')
            no_open = true;
        else if (option == 's')
            size = strtoul(optarg, NULL, 10);
        else
            return 2;
    }
    if (optind + 1 != argc)
        return 2;
    content = malloc(size + 1);
    if (!content || !config)
        return 1;
    memset(content, 'x', size);
    session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    if (!session || fuse_set_signal_handlers(session) < 0)
        goto out;
    if (fuse_session_mount(session, argv[optind]) == 0) {
        r = fuse_session_loop_mt(session, config) < 0;
        fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
out:
    if (session)
        fuse_session_destroy(session);
    fuse_loop_cfg_destroy(config);
    fuse_opt_free_args(&args);
    free(content);
    return r;
}
