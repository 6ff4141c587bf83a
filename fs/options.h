/*
 * The command line: consulfs [options] [ADDRESS] MOUNTPOINT.
 *
 * Pure parsing, without FUSE, Consul or the environment; for the main thread, before there are others (getopt keeps
 * state of its own). What it accepts is documented for users in options_usage() and in consulfs(8).
 */
#ifndef FS_OPTIONS_H
#define FS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* How a run ends, as options_usage() tells the user. */
#define OPTIONS_EXIT_OK 0
#define OPTIONS_EXIT_FAILURE 1
#define OPTIONS_EXIT_USAGE 2

#define OPTIONS_STALE_FOREVER (-1)

/* -o uid= and gid= not given: those who mount. */
#define OPTIONS_NO_UID ((uid_t)-1)
#define OPTIONS_NO_GID ((gid_t)-1)

enum options_action {
    OPTIONS_MOUNT,
    OPTIONS_HELP,    /* print options_usage() to stdout and exit 0; nothing else need be valid */
    OPTIONS_VERSION, /* print the version and exit 0; likewise */
};

/* All strings are owned by the struct and freed by options_clear(). */
struct options {
    enum options_action action;
    char *address;    /* NULL: as the environment says */
    char *mountpoint; /* as given; NULL only with OPTIONS_HELP and OPTIONS_VERSION */

    bool foreground; /* -f, or -d */
    bool debug;      /* -d, or -o debug */

    char *token_file; /* NULL: as the environment says; may be relative to the present directory */
    char *datacenter; /* NULL: the agent's own */
    char *root;       /* the subtree to mount, "kv/app", without slashes at its ends; NULL: the whole tree */
    bool read_only;
    bool allow_other;
    uid_t uid; /* or OPTIONS_NO_UID */
    gid_t gid; /* or OPTIONS_NO_GID */
    bool umask_given;
    mode_t umask;
    unsigned timeout_ms; /* for one operation; above 0 */
    int64_t stale_ms;    /* or OPTIONS_STALE_FOREVER; 0: never serve what may be stale */
    unsigned watches;
    unsigned inotify;    /* announcements a second; 0: none */
    unsigned lock_ttl_s; /* the TTL of the session that holds locks */
    bool allow_restore;
    bool delay_connect;

    /* For libfuse's loop, not for its session, which would refuse them. */
    unsigned max_threads;  /* 0: libfuse's own default */
    unsigned idle_threads; /* likewise */
    bool clone_fd;

    /*
     * For libfuse's session, in the order given: each ready to be the argument after "-o", with its commas and
     * backslashes escaped. "ro" and "allow_other" are among them when they are in force.
     */
    char **fuse_opts;
    size_t n_fuse_opts;
};

/*
 * Parses argv, whose strings are copied; argv[0] is not looked at. *ret need not be initialised.
 *
 * On failure *ret is untouched; -EINVAL (exit OPTIONS_EXIT_USAGE) with one line in *ret_error that names the offending
 * option and that the caller frees, or -ENOMEM with *ret_error NULL.
 */
__attribute__((warn_unused_result)) int options_parse(int argc, char *const argv[], struct options *ret,
                                                      char **ret_error);

/* Whether an option for libfuse's session is among fuse_opts: "fsname=" with any value, "nodev" as it stands. */
bool options_has_fuse_opt(const struct options *options, const char *name);

/* Frees everything and leaves an all-zero struct. Takes NULL and all-zero. */
void options_clear(struct options *options);

/* Writes the whole of --help. */
void options_usage(FILE *stream);

#endif
