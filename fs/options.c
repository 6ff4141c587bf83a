/* The command line; see options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TIMEOUT_MS 10000
#define DEFAULT_WATCHES 64
#define DEFAULT_INOTIFY 1000
#define DEFAULT_LOCK_TTL_S 15
#define LOCK_TTL_MIN_S 10
#define LOCK_TTL_MAX_S 86400

/* Bounds that keep arithmetic on these values far from overflow; nobody needs more. */
#define TIMEOUT_MAX_S 86400
#define STALE_MAX_S (INT64_C(10) * 365 * 86400)
#define COUNT_MAX 100000

/* Stores one line for the user and returns -EINVAL, so that a failure is one statement. */
__attribute__((format(printf, 2, 3))) static int bad_usage(char **ret_error, const char *fmt, ...)
{
    va_list args;
    char *text;
    int n;

    va_start(args, fmt);
    n = vasprintf(&text, fmt, args);
    va_end(args);
    *ret_error = n < 0 ? NULL : text;
    return n < 0 ? -ENOMEM : -EINVAL;
}

/* Digits only, of the base, up to max: no sign, no blanks, no locale. */
static bool parse_number(const char *text, unsigned base, uint64_t max, uint64_t *ret)
{
    uint64_t value = 0;

    if (!text[0])
        return false;
    for (; *text; text++) {
        unsigned digit = (unsigned)(*text - '0');

        if (*text < '0' || digit >= base || value > (max - digit) / base)
            return false;
        value = value * base + digit;
    }
    *ret = value;
    return true;
}

/* Seconds with an optional fraction, "2.5", into milliseconds; what is below those is cut off. */
static bool parse_seconds(const char *text, int64_t max_s, int64_t *ret_ms)
{
    size_t whole = strcspn(text, ".");
    char seconds[24], milliseconds[4] = "000";
    uint64_t s, ms;

    if (whole >= sizeof(seconds))
        return false;
    memcpy(seconds, text, whole);
    seconds[whole] = '\0';

    if (text[whole] == '.') {
        const char *fraction = text + whole + 1;

        if (!fraction[0] || strspn(fraction, "0123456789") != strlen(fraction))
            return false;
        memcpy(milliseconds, fraction, strnlen(fraction, 3));
    }
    if (!parse_number(seconds, 10, (uint64_t)max_s, &s) || !parse_number(milliseconds, 10, 999, &ms))
        return false;
    *ret_ms = (int64_t)(s * 1000 + ms);
    return true;
}

/*
 * One row for each -o option. store() gets the value (NULL for a flag) and returns 0, -EINVAL if the value is not what
 * the row wants, or -ENOMEM; field is where in struct options it goes.
 */
struct row {
    const char *name;  /* without '='; a '*' at its end stands for anything */
    const char *wants; /* what its value must be, for the message; NULL: it takes none */
    int (*store)(struct options *options, const struct row *row, const char *value, void *field);
    size_t field;
};

static int store_true(struct options *options, const struct row *row, const char *value, void *field)
{
    (void)options, (void)row, (void)value;
    *(bool *)field = true;
    return 0;
}

static int store_false(struct options *options, const struct row *row, const char *value, void *field)
{
    (void)options, (void)row, (void)value;
    *(bool *)field = false;
    return 0;
}

static int store_string(struct options *options, const struct row *row, const char *value, void *field)
{
    char *copy;

    (void)options, (void)row;
    if (!value[0])
        return -EINVAL;
    copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(*(char **)field);
    *(char **)field = copy;
    return 0;
}

/* A path within the tree, kept without slashes at its ends. Inside, "//" would name nothing: an empty key is %empty. */
static int store_root(struct options *options, const struct row *row, const char *value, void *field)
{
    size_t len;
    char *copy;

    (void)options, (void)row;
    if (!value[0])
        return -EINVAL;
    value += strspn(value, "/");
    len = strlen(value);
    while (len > 0 && value[len - 1] == '/')
        len--;

    for (size_t begin = 0, n; begin < len; begin += n + 1) {
        n = strcspn(value + begin, "/");
        if (n == 0 || (n == 1 && value[begin] == '.') || (n == 2 && memcmp(value + begin, "..", 2) == 0))
            return -EINVAL;
    }
    copy = len > 0 ? strndup(value, len) : NULL;
    if (len > 0 && !copy)
        return -ENOMEM;
    free(*(char **)field);
    *(char **)field = copy;
    return 0;
}

/* 32 bits, the highest of which means "none" to the kernel. */
static int store_id(struct options *options, const struct row *row, const char *value, void *field)
{
    uint64_t number;

    (void)options, (void)row;
    _Static_assert(sizeof(uid_t) == 4 && sizeof(gid_t) == 4, "a uid and a gid are 32 bits on Linux");
    if (!parse_number(value, 10, UINT32_MAX - 1, &number))
        return -EINVAL;
    *(uint32_t *)field = (uint32_t)number;
    return 0;
}

static int store_umask(struct options *options, const struct row *row, const char *value, void *field)
{
    uint64_t number;

    (void)row, (void)field;
    if (!parse_number(value, 8, 0777, &number))
        return -EINVAL;
    options->umask = (mode_t)number;
    options->umask_given = true;
    return 0;
}

static int store_timeout(struct options *options, const struct row *row, const char *value, void *field)
{
    int64_t ms;

    (void)options, (void)row;
    if (!parse_seconds(value, TIMEOUT_MAX_S, &ms) || ms == 0)
        return -EINVAL;
    *(unsigned *)field = (unsigned)ms;
    return 0;
}

static int store_stale(struct options *options, const struct row *row, const char *value, void *field)
{
    int64_t ms = OPTIONS_STALE_FOREVER;

    (void)options, (void)row;
    if (strcmp(value, "forever") != 0 && !parse_seconds(value, STALE_MAX_S, &ms))
        return -EINVAL;
    *(int64_t *)field = ms;
    return 0;
}

static int store_count(struct options *options, const struct row *row, const char *value, void *field)
{
    uint64_t number;

    (void)options, (void)row;
    if (!parse_number(value, 10, COUNT_MAX, &number))
        return -EINVAL;
    *(unsigned *)field = (unsigned)number;
    return 0;
}

/* What Consul takes for a session's TTL. */
static int store_lock_ttl(struct options *options, const struct row *row, const char *value, void *field)
{
    uint64_t number;

    (void)options, (void)row;
    if (!parse_number(value, 10, LOCK_TTL_MAX_S, &number) || number < LOCK_TTL_MIN_S)
        return -EINVAL;
    *(unsigned *)field = (unsigned)number;
    return 0;
}

/* Adds "name" or "name=value" to what libfuse's session gets, escaped as it wants it. */
static int pass_on(struct options *options, const struct row *row, const char *value, void *field)
{
    size_t size = 2 * (strlen(row->name) + (value ? strlen(value) : 0)) + 2, n = 0;
    char **grown, *text;

    (void)field;
    if (value && !value[0])
        return -EINVAL;
    grown = reallocarray(options->fuse_opts, options->n_fuse_opts + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    options->fuse_opts = grown;
    text = malloc(size);
    if (!text)
        return -ENOMEM;

    for (const char *p = row->name; *p; p++)
        text[n++] = *p;
    if (value)
        text[n++] = '=';
    for (const char *p = value ? value : ""; *p; p++) {
        if (*p == ',' || *p == '\\')
            text[n++] = '\\';
        text[n++] = *p;
    }
    text[n] = '\0';
    options->fuse_opts[options->n_fuse_opts++] = text;
    return 0;
}

static int ignore(struct options *options, const struct row *row, const char *value, void *field)
{
    (void)options, (void)row, (void)value, (void)field;
    return 0;
}

#define FIELD(name) offsetof(struct options, name)

static const struct row rows[] = {
    /* Ours. */
    {"token_file", "the name of a file", store_string, FIELD(token_file)},
    {"datacenter", "the name of a datacenter", store_string, FIELD(datacenter)},
    {"root", "a path in the tree, as in root=kv/app", store_root, FIELD(root)},
    {"ro", NULL, store_true, FIELD(read_only)},
    {"rw", NULL, store_false, FIELD(read_only)},
    {"uid", "a numeric user ID", store_id, FIELD(uid)},
    {"gid", "a numeric group ID", store_id, FIELD(gid)},
    {"umask", "an octal mode up to 777", store_umask, 0},
    {"allow_other", NULL, store_true, FIELD(allow_other)},
    {"timeout", "seconds above 0 and up to a day, as in timeout=2.5", store_timeout, FIELD(timeout_ms)},
    {"stale", "'forever' or seconds, 0 for never", store_stale, FIELD(stale_ms)},
    {"watches", "a number", store_count, FIELD(watches)},
    {"inotify", "a number", store_count, FIELD(inotify)},
    {"lock_ttl", "whole seconds from 10 to 86400", store_lock_ttl, FIELD(lock_ttl_s)},
    {"allow_restore", NULL, store_true, FIELD(allow_restore)},
    {"delay_connect", NULL, store_true, FIELD(delay_connect)},
    {"debug", NULL, store_true, FIELD(debug)},

    /* Of libfuse's loop. */
    {"max_threads", "a number", store_count, FIELD(max_threads)},
    {"max_idle_threads", "a number", store_count, FIELD(idle_threads)},
    {"clone_fd", NULL, store_true, FIELD(clone_fd)},

    /* Of libfuse's session: what that of 3.14 knows (lib/mount.c) and makes sense here. */
    {"fsname", "a name", pass_on, 0},
    {"subtype", "a name", pass_on, 0},
    {"max_read", "a number of bytes", pass_on, 0},
    {"context", "an SELinux context", pass_on, 0},
    {"fscontext", "an SELinux context", pass_on, 0},
    {"defcontext", "an SELinux context", pass_on, 0},
    {"rootcontext", "an SELinux context", pass_on, 0},
    {"default_permissions", NULL, pass_on, 0},
    {"allow_root", NULL, pass_on, 0},
    {"auto_unmount", NULL, pass_on, 0},
    {"dev", NULL, pass_on, 0},
    {"nodev", NULL, pass_on, 0},
    {"suid", NULL, pass_on, 0},
    {"nosuid", NULL, pass_on, 0},
    {"exec", NULL, pass_on, 0},
    {"noexec", NULL, pass_on, 0},
    {"atime", NULL, pass_on, 0},
    {"noatime", NULL, pass_on, 0},
    {"sync", NULL, pass_on, 0},
    {"async", NULL, pass_on, 0},
    {"dirsync", NULL, pass_on, 0},

    /* What mount(8) and systemd keep in fstab for themselves and hand over all the same. */
    {"defaults", NULL, ignore, 0},
    {"_netdev", NULL, ignore, 0},
    {"auto", NULL, ignore, 0},
    {"noauto", NULL, ignore, 0},
    {"nofail", NULL, ignore, 0},
    {"user", NULL, ignore, 0},
    {"nouser", NULL, ignore, 0},
    {"users", NULL, ignore, 0},
    {"nousers", NULL, ignore, 0},
    {"owner", NULL, ignore, 0},
    {"noowner", NULL, ignore, 0},
    {"group", NULL, ignore, 0},
    {"nogroup", NULL, ignore, 0},
    {"comment", NULL, ignore, 0},
    {"x-*", NULL, ignore, 0},
    {"X-*", NULL, ignore, 0},
    /* On times of access, which we do not keep; libfuse 3.14 refuses them. */
    {"relatime", NULL, ignore, 0},
    {"norelatime", NULL, ignore, 0},
    {"strictatime", NULL, ignore, 0},
    {"nostrictatime", NULL, ignore, 0},
    {"lazytime", NULL, ignore, 0},
    {"nolazytime", NULL, ignore, 0},
    {"diratime", NULL, ignore, 0},
    {"nodiratime", NULL, ignore, 0},
};

static const struct row *find_row(const char *name)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t len = strcspn(rows[i].name, "*");

        if (rows[i].name[len] == '*' ? strncmp(name, rows[i].name, len) == 0 : strcmp(name, rows[i].name) == 0)
            return &rows[i];
    }
    return NULL;
}

/* One option, "name" or "name=value", which this takes apart in place. */
static int parse_option(struct options *options, char *text, char **ret_error)
{
    char *value = strchr(text, '=');
    const struct row *row;
    int r;

    if (value)
        *value++ = '\0';

    /* Values are not shown where they may be a secret: in what we do not know, and in this. */
    if (strcmp(text, "token") == 0)
        return bad_usage(ret_error, "option 'token' would show the token to everybody; use token_file=FILE");
    row = find_row(text);
    if (!row)
        return bad_usage(ret_error, "unknown option '%s'", text);
    if (row->wants && !value)
        return bad_usage(ret_error, "option '%s' wants a value: %s", text, row->wants);
    if (!row->wants && value && row->store != ignore)
        return bad_usage(ret_error, "option '%s' takes no value", text);

    r = row->store(options, row, value, (char *)options + row->field);
    if (r == -EINVAL)
        return bad_usage(ret_error, "option '%s' wants %s, not '%s'", text, row->wants, value);
    return r;
}

/* The argument of -o: options between commas. A backslash takes the meaning from what follows it, as in libfuse. */
static int parse_option_list(struct options *options, const char *list, char **ret_error)
{
    char *text = malloc(strlen(list) + 1);
    int r = 0;

    if (!text)
        return -ENOMEM;
    do {
        size_t n = 0;

        for (; *list && *list != ','; list++) {
            if (*list == '\\' && list[1])
                list++;
            text[n++] = *list;
        }
        text[n] = '\0';
        if (n > 0)
            r = parse_option(options, text, ret_error);
    } while (r == 0 && *list++ == ',');
    free(text);
    return r;
}

/* The arguments that are no options; what is given in fstab for "nothing" counts as not given. */
static int parse_positionals(struct options *options, const char *const *arguments, size_t n, char **ret_error)
{
    const char *mountpoint = n > 0 ? arguments[n - 1] : "";

    if (n > 2)
        return bad_usage(ret_error, "too many arguments: '%s'", arguments[2]);
    if (!mountpoint[0])
        return bad_usage(ret_error, "no mount point given");
    options->mountpoint = strdup(mountpoint);
    if (!options->mountpoint)
        return -ENOMEM;
    if (n < 2 || !arguments[0][0] || strcmp(arguments[0], "none") == 0)
        return 0;
    options->address = strdup(arguments[0]);
    return options->address ? 0 : -ENOMEM;
}

/* Fills options that hold the defaults; what they hold after a failure is for the caller to clear. */
static int parse(struct options *options, int argc, char *const argv[], char **ret_error)
{
    static const struct option long_options[] = {
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {"foreground", no_argument, NULL, 'f'},
        {"debug", no_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    static const struct row ro = {"ro", NULL, pass_on, 0}, allow_other = {"allow_other", NULL, pass_on, 0};
    const char *arguments[3];
    size_t n = 0;
    int c, r;

    /* "-": what is no option comes as option 1, in its place, whatever POSIXLY_CORRECT says. 0: start anew. */
    opterr = 0;
    optind = 0;
    while ((c = getopt_long(argc, argv, "-:hVfdo:", long_options, NULL)) != -1) {
        switch (c) {
        case 1:
            if (n < 3)
                arguments[n++] = optarg;
            break;
        case 'h':
            options->action = OPTIONS_HELP;
            return 0;
        case 'V':
            options->action = OPTIONS_VERSION;
            return 0;
        case 'f':
            options->foreground = true;
            break;
        case 'd':
            options->debug = true;
            break;
        case 'o':
            r = parse_option_list(options, optarg, ret_error);
            if (r < 0)
                return r;
            break;
        case ':':
            return bad_usage(ret_error, "option '-%c' wants a value", optopt);
        default:
            /* A letter that we know means a long option with a value that it does not take. */
            if (optopt && !strchr("hVfdo", optopt))
                return bad_usage(ret_error, "unknown option '-%c'", optopt);
            return bad_usage(ret_error, "unknown option '%s'", argv[optind - 1]);
        }
    }
    for (; optind < argc && n < 3; optind++)
        arguments[n++] = argv[optind];

    r = parse_positionals(options, arguments, n, ret_error);
    if (r == 0 && options->read_only)
        r = pass_on(options, &ro, NULL, NULL);
    if (r == 0 && options->allow_other)
        r = pass_on(options, &allow_other, NULL, NULL);
    options->foreground |= options->debug;
    return r;
}

int options_parse(int argc, char *const argv[], struct options *ret, char **ret_error)
{
    struct options options = {
        .uid = OPTIONS_NO_UID,
        .gid = OPTIONS_NO_GID,
        .timeout_ms = DEFAULT_TIMEOUT_MS,
        .stale_ms = OPTIONS_STALE_FOREVER,
        .watches = DEFAULT_WATCHES,
        .inotify = DEFAULT_INOTIFY,
        .lock_ttl_s = DEFAULT_LOCK_TTL_S,
    };
    int r;

    *ret_error = NULL;
    r = parse(&options, argc, argv, ret_error);
    if (r < 0)
        options_clear(&options);
    else
        *ret = options;
    return r;
}

bool options_has_fuse_opt(const struct options *options, const char *name)
{
    size_t len = strlen(name);
    bool with_value = len > 0 && name[len - 1] == '=';

    for (size_t i = 0; i < options->n_fuse_opts; i++)
        if (with_value ? strncmp(options->fuse_opts[i], name, len) == 0 : strcmp(options->fuse_opts[i], name) == 0)
            return true;
    return false;
}

void options_clear(struct options *options)
{
    if (!options)
        return;
    free(options->address);
    free(options->mountpoint);
    free(options->token_file);
    free(options->datacenter);
    free(options->root);
    for (size_t i = 0; i < options->n_fuse_opts; i++)
        free(options->fuse_opts[i]);
    free(options->fuse_opts);
    *options = (struct options){0};
}

void options_usage(FILE *stream)
{
    static const char text[] =
        "Usage: consulfs [options] [ADDRESS] MOUNTPOINT\n"
        "\n"
        "Mounts HashiCorp Consul: keys, services, nodes and checks as files and directories.\n"
        "Unmount with fusermount3 -u MOUNTPOINT.\n"
        "\n"
        "ADDRESS is where Consul's HTTP API is: HOST:PORT, http[s]://HOST[:PORT][/PREFIX] or\n"
        "unix:///SOCKET. Without it, or if it is \"none\", CONSUL_HTTP_ADDR is used, and without\n"
        "that 127.0.0.1:8500.\n"
        "\n"
        "Options:\n"
        "  -f, --foreground       stay in the foreground, log to stderr\n"
        "  -d, --debug            log what happens in detail; implies -f\n"
        "  -h, --help             show this and exit\n"
        "  -V, --version          show the version and exit\n"
        "  -o OPTION[,OPTION...]  mount options; a comma within one is written as \\,\n"
        "\n"
        "Mount options:\n"
        "  token_file=FILE        read the ACL token from FILE\n"
        "  datacenter=DC          use this datacenter instead of the agent's own\n"
        "  root=PATH              mount a part of the tree only, as in root=kv/app\n"
        "  ro                     read only\n"
        "  uid=N, gid=N           owner and group of all files; default: who mounts\n"
        "  umask=MODE             permissions to take away from all files, in octal\n"
        "  allow_other            let other users in; see user_allow_other in fuse.conf(5)\n"
        "  timeout=SECONDS        how long one operation may take; default 10\n"
        "  stale=SECONDS|forever  how long known content is still served while Consul does not\n"
        "                         answer; default forever, 0 for never\n"
        "  watches=N              blocking queries to hold open at most; default 64. Consul allows\n"
        "                         200 connections for all clients on a host (http_max_conns_per_client)\n"
        "  inotify=N              changes made elsewhere of which watchers (inotify, fanotify) are told, a\n"
        "                         second at most; default 1000, 0 for none\n"
        "  lock_ttl=SECONDS       after which others get the locks of a mount that has gone silent, and\n"
        "                         it takes them for lost itself; 10 to 86400, default 15\n"
        "  allow_restore          a backup may be written to operator/snapshot\n"
        "  delay_connect          mount even if Consul does not answer yet\n"
        "  FUSE's own             allow_root auto_unmount clone_fd default_permissions fsname=\n"
        "                         max_idle_threads= max_read= max_threads= subtype= and those of\n"
        "                         mount(8): [no]dev [no]suid [no]exec [no]atime [a]sync dirsync\n"
        "\n"
        "Environment, as for the consul command:\n"
        "  CONSUL_HTTP_ADDR       see ADDRESS\n"
        "  CONSUL_HTTP_TOKEN      the ACL token\n"
        "  CONSUL_HTTP_TOKEN_FILE a file to read it from, which wins\n"
        "  CONSUL_HTTP_AUTH       USER[:PASSWORD] for basic authentication\n"
        "  CONSUL_HTTP_SSL        true: use https although ADDRESS does not say so\n"
        "  CONSUL_HTTP_SSL_VERIFY false: do not verify the server's certificate\n"
        "  CONSUL_CACERT, CONSUL_CAPATH\n"
        "                         file, or directory, of the CA certificates to trust\n"
        "  CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY\n"
        "                         files of the certificate and key to show; they go together\n"
        "  CONSUL_TLS_SERVER_NAME the name that the server's certificate must have\n"
        "  CONSUL_NAMESPACE, CONSUL_PARTITION\n"
        "                         of Consul Enterprise\n"
        "\n"
        "Exit status:\n"
        "  0  mounted (in the background), or unmounted cleanly (in the foreground)\n"
        "  1  could not mount, or Consul did not answer; the reason is on stderr\n"
        "  2  bad options or arguments\n"
        "\n"
        "The manual page consulfs(8) describes the tree.\n";

    fputs(text, stream);
}
