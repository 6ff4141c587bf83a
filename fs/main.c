/*
 * The program: options, the way into the background, the loop, and the end of all.
 */
#define FUSE_USE_VERSION 314
#include "agent.h"
#include "announce.h"
#include "device.h"
#include "fastest.h"
#include "lock.h"
#include "log.h"
#include "name.h"
#include "notify.h"
#include "ops.h"
#include "version.h"

#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long unmounting waits for Consul to take our locks back; what is left then ends with its session's TTL. */
#define RELEASE_MS 2000

/* The end of the pipe that the waiting parent reads; -1 in the foreground, and once it has been told. */
static int ready_fd = -1;

/* ---- into the background -------------------------------------------------------------------------------------------
 */

/* The mount is usable: lets the parent go and leaves the terminal. Called on a worker thread of libfuse's. */
static void detach(struct fs *fs)
{
    int null;

    (void)fs;
    if (ready_fd < 0)
        return;
    null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (null > STDERR_FILENO)
            close(null);
    }
    if (write(ready_fd, "", 1) != 1)
        log_line(LOG_WARNING, "whoever started the mount does not wait for it any more");
    close(ready_fd);
    ready_fd = -1;
}

/* Before there are threads. Returns only in the child; the parent ends when the mount is usable or has failed. */
static void go_background(void)
{
    int pipe_fd[2], status;
    char byte;
    pid_t pid;

    if (pipe2(pipe_fd, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        log_line(LOG_ERR, "cannot go to the background: %s", strerror(errno));
        exit(OPTIONS_EXIT_FAILURE);
    }
    if (pid == 0) {
        close(pipe_fd[0]);
        ready_fd = pipe_fd[1];
        setsid();
        return;
    }
    close(pipe_fd[1]);
    if (read(pipe_fd[0], &byte, 1) == 1)
        _exit(OPTIONS_EXIT_OK);
    waitpid(pid, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : OPTIONS_EXIT_FAILURE);
}

/* ---- setting up ----------------------------------------------------------------------------------------------------
 */

static void on_library_log(void *arg, enum consul_log_level level, const char *line)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

    (void)arg;
    log_line(priorities[level], "%s", line);
}

static int complain(int status, char *error)
{
    fprintf(stderr, "consulfs: %s\n", error ? error : "out of memory");
    free(error);
    return status;
}

static int configure(const struct options *options, struct consul_config *config, char **ret_error)
{
    int r = consul_config_init_from_env(config, NULL, ret_error);

    if (r == 0 && options->address)
        r = consul_config_set_address(config, options->address, ret_error);
    if (r == 0 && options->token_file)
        r = consul_config_set_token_file(config, options->token_file, ret_error);
    if (r == 0 && options->datacenter)
        r = consul_config_set_datacenter(config, options->datacenter, ret_error);
    return r;
}

/* The row that a component of root= goes through: whether there is such a thing now does not matter. */
static const struct kind *step(const struct kind *kind, const char *name)
{
    const struct kind *const *row = kind->rows, *pattern = NULL;

    for (; row && *row; row++) {
        if (!S_ISDIR((*row)->mode))
            continue;
        if ((*row)->name && strcmp((*row)->name, name) == 0)
            return *row;
        if (!(*row)->name)
            pattern = *row;
    }
    return pattern;
}

static int make_root(struct fs *fs)
{
    char *path = strdup(fs->options->root ? fs->options->root : ""), *rest, *name;
    struct inode *at;

    fs->top = inode_new_static(&fs->inodes, &kind_root, NULL, "");
    if (!path || !fs->top) {
        free(path);
        return -ENOMEM;
    }
    at = fs->top;
    for (name = strtok_r(path, "/", &rest); at && name; name = strtok_r(NULL, "/", &rest)) {
        const struct kind *kind = step(at->kind, name);
        char decoded[NAME_SIZE];

        if (!kind || (!kind->name && name_decode(name, NULL, decoded, sizeof(decoded)) < 0 &&
                      name_kv_decode(name, decoded, sizeof(decoded)) < 0)) {
            free(path);
            return -ENOTDIR;
        }
        at = inode_new_static(&fs->inodes, kind, at, name);
    }
    free(path);
    fs->root = at;
    return at ? 0 : -ENOMEM;
}

static uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int init_fs(struct fs *fs, struct options *options, const struct consul_config *config, const char *mountpoint)
{
    struct consul_options wanted = {
        .watches = options->watches,
        .timeout_ms = options->timeout_ms,
        .stale_ms = options->stale_ms == OPTIONS_STALE_FOREVER ? CONSUL_STALE_FOREVER : (uint64_t)options->stale_ms,
        .log = on_library_log,
        .changed = notify_changed,
        .changed_arg = fs,
        .session_ttl_s = options->lock_ttl_s,
    };
    char *session_name = NULL, host[HOST_NAME_MAX + 1] = "";
    int r;

    (void)gethostname(host, sizeof(host) - 1);
    if (asprintf(&session_name, "consulfs %s:%s", host, mountpoint) < 0)
        session_name = NULL;
    wanted.session_name = session_name;

    fs->options = options;
    fs->mounted_ns = realtime_ns();
    fs->on_usable = detach;
    fs->has_token = config->token != NULL;
    gate_init(&fs->gate);
    pthread_mutex_init(&fs->open_lock, NULL);
    refusals_init(&fs->refusals);
    reopening_init(&fs->reopening);
    ways_init(&fs->ways);
    pages_init(&fs->pages);
    ahead_init(&fs->ahead);
    phantoms_init(&fs->phantoms);
    made_init(&fs->made);
    aliases_init(&fs->aliases);
    own_init(&fs->own);
    agent_init(&fs->agent);
    r = inode_table_init(&fs->inodes);
    if (r == 0)
        r = make_root(fs);
    if (r == 0)
        r = fastest_new(fs, &fs->fastest);
    if (r == 0)
        r = config->unix_socket ? (asprintf(&fs->consul_address, "unix://%s", config->unix_socket) < 0 ? -ENOMEM : 0)
                                : consul_config_base_url(config, &fs->consul_address);
    if (r == 0)
        r = consul_new(config, &wanted, &fs->consul);
    if (r == 0)
        r = lock_table_new(fs, &fs->locks);
    free(session_name);
    return r;
}

/* In the reverse order of who needs whom: the threads first, then what they used. */
static void destroy_fs(struct fs *fs)
{
    if (fs->consul)
        consul_stop(fs->consul);
    agent_stop(fs);
    notify_stop(fs->notify);
    announcer_stop(fs->announcer);
    lock_table_free(fs->locks);
    fastest_free(fs->fastest);
    handle_free_all(fs);
    dir_handle_free_all(fs);
    if (fs->inodes.buckets)
        inode_table_destroy(&fs->inodes);
    notify_free(fs->notify);
    announcer_free(fs->announcer);
    own_destroy(&fs->own);
    consul_free(fs->consul);
    agent_destroy(&fs->agent);
    made_destroy(&fs->made);
    aliases_destroy(&fs->aliases);
    if (fs->bootstrapped)
        explicit_bzero(fs->bootstrapped, strlen(fs->bootstrapped));
    free(fs->bootstrapped);
    phantoms_destroy(&fs->phantoms);
    refusals_destroy(&fs->refusals);
    ahead_destroy(&fs->ahead);
    pages_destroy(&fs->pages);
    ways_destroy(&fs->ways);
    reopening_destroy(&fs->reopening);
    pthread_mutex_destroy(&fs->open_lock);
    gate_destroy(&fs->gate);
    free(fs->consul_address);
}

/* ---- the session ---------------------------------------------------------------------------------------------------
 */

static int add_option(struct fuse_args *args, const char *option)
{
    return fuse_opt_add_arg(args, "-o") < 0 || fuse_opt_add_arg(args, option) < 0 ? -ENOMEM : 0;
}

static int session_new(struct fs *fs, struct fuse_session **ret_session)
{
    const struct options *options = fs->options;
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    char *fsname = NULL;
    int r = fuse_opt_add_arg(&args, "consulfs") < 0 ? -ENOMEM : 0;

    if (r == 0 && asprintf(&fsname, "fsname=%s", fs->consul_address) < 0)
        r = -ENOMEM;
    if (r == 0 && !options_has_fuse_opt(options, "fsname="))
        r = add_option(&args, fsname);
    if (r == 0 && !options_has_fuse_opt(options, "subtype="))
        r = add_option(&args, "subtype=consulfs");
    if (r == 0) /* the kernel checks modes; it knows the caller's groups */
        r = add_option(&args, "default_permissions");
    for (size_t i = 0; r == 0 && i < options->n_fuse_opts; i++)
        r = add_option(&args, options->fuse_opts[i]);
    if (r == 0 && options->debug)
        r = fuse_opt_add_arg(&args, "-d") < 0 ? -ENOMEM : 0;
    if (r == 0) {
        *ret_session = fuse_session_new(&args, &consulfs_ops, sizeof(consulfs_ops), fs);
        if (!*ret_session)
            r = -EINVAL; /* libfuse has said why */
    }
    free(fsname);
    fuse_opt_free_args(&args);
    return r;
}

static int loop(const struct options *options, struct fuse_session *session)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int r;

    if (!config)
        return -ENOMEM;
    fuse_loop_cfg_set_clone_fd(config, options->clone_fd);
    if (options->max_threads > 0)
        fuse_loop_cfg_set_max_threads(config, options->max_threads);
    if (options->idle_threads > 0)
        fuse_loop_cfg_set_idle_threads(config, options->idle_threads);
    r = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return r; /* the number of the signal that ended it, or 0: unmounted */
}

static int start_announcing(struct fs *fs, struct fuse_session *session, const char *mountpoint)
{
    if (fs->options->inotify == 0)
        return 0;
    return announcer_new(fs, session, mountpoint, fs->options->inotify, &fs->announcer);
}

static int serve(struct fs *fs, struct fuse_session *session, const char *mountpoint)
{
    int r = OPTIONS_EXIT_FAILURE;
    bool stopped;

    if (fuse_set_signal_handlers(session) != 0)
        return r;
    if (start_announcing(fs, session, mountpoint) == 0 && notify_new(fs, session, &fs->notify) == 0 &&
        fuse_session_mount(session, mountpoint) == 0 && device_take_over(session) == 0) {
        announcer_mounted(fs->announcer);
        if (ready_fd >= 0)
            log_init(true, fs->options->debug);
        else
            log_line(LOG_INFO, "%s is mounted at %s", fs->consul_address, mountpoint);
        r = loop(fs->options, session) < 0 ? OPTIONS_EXIT_FAILURE : OPTIONS_EXIT_OK;
        /* Who still waits gets an answer before the mount goes, and others get our locks. */
        lock_table_stop(fs->locks);
        consul_release_locks(fs->consul, RELEASE_MS);
        consul_stop(fs->consul);
        stopped = notify_stop(fs->notify);
        fuse_session_unmount(session);
        /* Whoever of these was at work in the mount is set free by its end. */
        if (!announcer_stop(fs->announcer) || !stopped)
            _exit(r);
    }
    fuse_remove_signal_handlers(session);
    return r;
}

static int connect_first(struct fs *fs)
{
    char *error = NULL;

    if (fs->options->delay_connect)
        return agent_connect_later(fs) < 0 ? complain(OPTIONS_EXIT_FAILURE, strdup("cannot start a thread")) : 0;
    return agent_connect(fs, &error) < 0 ? complain(OPTIONS_EXIT_FAILURE, error) : 0;
}

static int mount_and_serve(struct options *options, const struct consul_config *config)
{
    static struct fs fs; /* large, and the only one */
    struct fuse_session *session = NULL;
    char *mountpoint = realpath(options->mountpoint, NULL), *error = NULL;
    struct stat st;
    int r;

    if (!mountpoint || stat(mountpoint, &st) < 0 || !S_ISDIR(st.st_mode)) {
        if (asprintf(&error, "%s: %s", options->mountpoint, strerror(mountpoint ? ENOTDIR : errno)) < 0)
            error = NULL;
        free(mountpoint);
        return complain(OPTIONS_EXIT_FAILURE, error);
    }
    if (!options->foreground)
        go_background();
    r = init_fs(&fs, options, config, mountpoint);
    if (r == -ENOTDIR)
        r = complain(OPTIONS_EXIT_USAGE, strdup("root= names no directory of the tree"));
    else if (r < 0)
        r = complain(OPTIONS_EXIT_FAILURE, strdup(strerror(-r)));
    else if ((r = session_new(&fs, &session)) < 0)
        r = OPTIONS_EXIT_USAGE;
    else if ((r = connect_first(&fs)) == 0)
        r = serve(&fs, session, mountpoint);
    destroy_fs(&fs);
    if (session)
        fuse_session_destroy(session);
    free(mountpoint);
    return r;
}

/*
 * Memory that was freed can be given back only where nothing that is used lies between: fewer arenas than there are
 * threads, and their ends are cut off as they are by default, also after large answers, which raise glibc's threshold.
 */
static void configure_allocator(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 4);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
#endif
}

int main(int argc, char *argv[])
{
    struct consul_config config = {0};
    struct options options;
    char *error = NULL;
    int r = options_parse(argc, argv, &options, &error);

    if (r < 0)
        return complain(r == -EINVAL ? OPTIONS_EXIT_USAGE : OPTIONS_EXIT_FAILURE, error);
    if (options.action == OPTIONS_HELP || options.action == OPTIONS_VERSION) {
        if (options.action == OPTIONS_HELP)
            options_usage(stdout);
        else
            printf("consulfs %s (libfuse %s)\n", CONSULFS_VERSION, fuse_pkgversion());
        options_clear(&options);
        return OPTIONS_EXIT_OK;
    }
    configure_allocator();
    log_init(false, options.debug);
    signal(SIGPIPE, SIG_IGN);
    if (options.uid == OPTIONS_NO_UID)
        options.uid = getuid();
    if (options.gid == OPTIONS_NO_GID)
        options.gid = getgid();
    if (configure(&options, &config, &error) < 0)
        r = complain(OPTIONS_EXIT_USAGE, error);
    else
        r = mount_and_serve(&options, &config);
    consul_config_clear(&config);
    options_clear(&options);
    return r;
}
