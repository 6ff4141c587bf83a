/* fs/options: the command line, option by option, and what is said about bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define MAX_ARGS 16

/* The arguments are split at '|', which no case needs otherwise: "-o|a b|/m" is three. */
static int parse(const char *line, struct options *ret, char **ret_error)
{
    char name[] = "consulfs", *text = strdup(line), *rest = text, *argv[MAX_ARGS + 1] = {name};
    int argc = 1, r;

    while (rest && argc < MAX_ARGS)
        argv[argc++] = strsep(&rest, "|");
    r = options_parse(argc, argv, ret, ret_error);
    free(text); /* so that ASan sees what was not copied */
    return r;
}

static void parse_ok(const char *line, struct options *options)
{
    char *error = NULL;

    memset(options, 0x5a, sizeof(*options));
    if (parse(line, options, &error) != 0)
        fail_msg("'%s' was refused: %s", line, error);
    assert_null(error);
}

static void parse_fails(const char *line, const char *expected)
{
    struct options options, before;
    char *error = NULL;

    memset(&options, 0x5a, sizeof(options));
    before = options;
    if (parse(line, &options, &error) != -EINVAL)
        fail_msg("'%s' was accepted", line);
    assert_non_null(error);
    if (!strstr(error, expected))
        fail_msg("'%s': '%s' does not say '%s'", line, error, expected);
    assert_null(strchr(error, '\n'));
    assert_memory_equal(&options, &before, sizeof(options));
    free(error);
}

/* What libfuse's session would be given, joined by blanks. */
static void expect_fuse_opts(const struct options *options, const char *expected)
{
    char joined[512] = "";

    for (size_t i = 0; i < options->n_fuse_opts; i++) {
        strcat(joined, i > 0 ? " " : "");
        strcat(joined, options->fuse_opts[i]);
    }
    assert_string_equal(joined, expected);
}

static void test_defaults(void **state)
{
    struct options options;

    (void)state;
    parse_ok("/consul", &options);
    assert_int_equal(options.action, OPTIONS_MOUNT);
    assert_string_equal(options.mountpoint, "/consul");
    assert_null(options.address);
    assert_false(options.foreground);
    assert_false(options.debug);
    assert_null(options.token_file);
    assert_null(options.datacenter);
    assert_null(options.root);
    assert_false(options.read_only);
    assert_false(options.allow_other);
    assert_int_equal(options.uid, OPTIONS_NO_UID);
    assert_int_equal(options.gid, OPTIONS_NO_GID);
    assert_false(options.umask_given);
    assert_int_equal(options.timeout_ms, 10000);
    assert_int_equal(options.stale_ms, OPTIONS_STALE_FOREVER);
    assert_int_equal(options.watches, 64);
    assert_int_equal(options.inotify, 1000);
    assert_int_equal(options.lock_ttl_s, 15);
    assert_false(options.delay_connect);
    assert_int_equal(options.max_threads, 0);
    assert_int_equal(options.idle_threads, 0);
    assert_false(options.clone_fd);
    expect_fuse_opts(&options, "");
    options_clear(&options);
    assert_null(options.mountpoint);
    options_clear(&options);
    options_clear(NULL);
}

static void test_positionals(void **state)
{
    static const struct {
        const char *line, *address, *mountpoint;
    } cases[] = {
        {"/m", NULL, "/m"},
        {"host:8500|/m", "host:8500", "/m"},
        {"https://h/p|dir", "https://h/p", "dir"},
        {"-f|host|/m", "host", "/m"},
        {"host|-f|/m", "host", "/m"},
        {"host|/m|-f", "host", "/m"},
        {"host|/m|-o|ro", "host", "/m"}, /* as mount.fuse3 calls us */
        {"none|/m", NULL, "/m"},         /* fstab's way to say nothing */
        {"|/m", NULL, "/m"},
        {"none", NULL, "none"}, /* alone it is a directory */
        {"--|-f", NULL, "-f"},
        {"--|host|-m", "host", "-m"},
        {"host|--|-m", "host", "-m"},
        {"-f|--|--", NULL, "--"},
        {"-", NULL, "-"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct options options;

        parse_ok(cases[i].line, &options);
        assert_string_equal(options.mountpoint, cases[i].mountpoint);
        if (cases[i].address)
            assert_string_equal(options.address, cases[i].address);
        else
            assert_null(options.address);
        options_clear(&options);
    }

    parse_fails("-f", "no mount point");
    parse_fails("", "no mount point");
    parse_fails("host|", "no mount point");
    parse_fails("a|b|c", "'c'");
    parse_fails("a|b|c|d", "'c'");
    parse_fails("a|b|--|c", "'c'");
    parse_fails("a|--|b|c|d", "'c'");
    parse_fails("--", "no mount point");
}

static void test_flags(void **state)
{
    static const struct {
        const char *line;
        bool foreground, debug;
    } cases[] = {
        {"-f|/m", true, false},     {"--foreground|/m", true, false}, {"-d|/m", true, true},
        {"--debug|/m", true, true}, {"-fd|/m", true, true},           {"-o|debug|/m", true, true},
        {"-fo|ro|/m", true, false}, {"-odebug|/m", true, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct options options;

        parse_ok(cases[i].line, &options);
        assert_int_equal(options.foreground, cases[i].foreground);
        assert_int_equal(options.debug, cases[i].debug);
        options_clear(&options);
    }
}

static void test_help_and_version(void **state)
{
    static const char *const help[] = {"-h", "--help", "-fh", "-h|--bogus", "--help|a|b|c|d", "/m|-h", "-ho|x"};
    static const char *const version[] = {"-V", "--version", "-V|-h", "-o|ro|-V"};
    struct options options;

    (void)state;
    for (size_t i = 0; i < sizeof(help) / sizeof(help[0]); i++) {
        parse_ok(help[i], &options);
        assert_int_equal(options.action, OPTIONS_HELP);
        options_clear(&options);
    }
    for (size_t i = 0; i < sizeof(version) / sizeof(version[0]); i++) {
        parse_ok(version[i], &options);
        assert_int_equal(options.action, OPTIONS_VERSION);
        options_clear(&options);
    }
}

static void test_unknown(void **state)
{
    (void)state;
    parse_fails("-z|/m", "'-z'");
    parse_fails("-fz|/m", "'-z'");
    parse_fails("--debug|-zf|/m", "'-z'");
    parse_fails("-ordonly|/m", "'rdonly'");
    parse_fails("--bogus|/m", "'--bogus'");
    parse_fails("--help=x", "'--help=x'");
    parse_fails("-o", "'-o'");
    parse_fails("/m|-o", "'-o'");
    parse_fails("-o|bogus|/m", "'bogus'");
    parse_fails("-o|ro,bogus,rw|/m", "'bogus'");
    parse_fails("-o|RO|/m", "'RO'");
    parse_fails("-o| ro|/m", "' ro'");
    parse_fails("-o|=|/m", "unknown option ''");
    parse_fails("-o|time|/m", "'time'");
    parse_fails("-o|timeoutx=1|/m", "'timeoutx'");
    parse_fails("-o|-f|/m", "'-f'");
    parse_fails("-o|max_write=1|/m", "'max_write'");
    parse_fails("-o|x=1|/m", "'x'");
}

/* What follows '=' may be a secret where we don't know what it is, and is one here. */
static void test_secrets_are_not_shown(void **state)
{
    static const char *const lines[] = {"-o|token=s3cret|/m", "-o|tokn=s3cret|/m", "-o|ro=s3cret|/m"};

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct options options;
        char *error = NULL;

        assert_int_equal(parse(lines[i], &options, &error), -EINVAL);
        assert_null(strstr(error, "s3cret"));
        free(error);
    }
    parse_fails("-o|token=s3cret|/m", "token_file");
    parse_fails("-o|token|/m", "token_file");
}

static void test_strings(void **state)
{
    struct options options;

    (void)state;
    parse_ok("-o|token_file=/run/token,datacenter=dc2|-o|root=kv/app|/m", &options);
    assert_string_equal(options.token_file, "/run/token");
    assert_string_equal(options.datacenter, "dc2");
    assert_string_equal(options.root, "kv/app");
    options_clear(&options);

    /* The last one counts. */
    parse_ok("-o|datacenter=a,datacenter=b|-o|datacenter=c=d|/m", &options);
    assert_string_equal(options.datacenter, "c=d");
    options_clear(&options);

    parse_fails("-o|token_file=|/m", "'token_file' wants the name of a file");
    parse_fails("-o|token_file|/m", "'token_file' wants a value");
    parse_fails("-o|datacenter=|/m", "'datacenter'");
    parse_fails("-o|datacenter|/m", "'datacenter' wants a value");
}

static void test_root(void **state)
{
    static const char *const good[][2] = {
        {"kv", "kv"},         {"k", "k"},           {"/k/a/", "k/a"},
        {"/kv", "kv"},        {"kv/", "kv"},        {"//kv/app//", "kv/app"},
        {"kv/a b", "kv/a b"}, {"kv/...", "kv/..."}, {"kv/.a/..b", "kv/.a/..b"},
        {"kv/%2E", "kv/%2E"},
    };
    static const char *const bad[] = {"",       ".",       "..",    "kv/.",   "kv/..", "../kv",
                                      "kv/./a", "kv/../a", "kv//a", "kv//ab", "/./"};
    struct options options;
    char line[64];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        snprintf(line, sizeof(line), "-o|root=%s|/m", good[i][0]);
        parse_ok(line, &options);
        assert_string_equal(options.root, good[i][1]);
        options_clear(&options);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "-o|root=%s|/m", bad[i]);
        parse_fails(line, "'root' wants a path");
    }

    /* The whole tree, also after another one. */
    parse_ok("-o|root=kv,root=/|/m", &options);
    assert_null(options.root);
    options_clear(&options);
}

static void test_read_only(void **state)
{
    static const struct {
        const char *line;
        bool read_only, allow_other;
        const char *fuse_opts;
    } cases[] = {
        {"-o|ro|/m", true, false, "ro"},
        {"-o|rw|/m", false, false, ""},
        {"-o|ro,rw|/m", false, false, ""},
        {"-o|rw,ro,ro|/m", true, false, "ro"},
        {"-o|ro|-o|rw|/m", false, false, ""},
        {"-o|allow_other|/m", false, true, "allow_other"},
        {"-o|allow_other,nodev,ro,allow_other|/m", true, true, "nodev ro allow_other"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct options options;

        parse_ok(cases[i].line, &options);
        assert_int_equal(options.read_only, cases[i].read_only);
        assert_int_equal(options.allow_other, cases[i].allow_other);
        expect_fuse_opts(&options, cases[i].fuse_opts);
        options_clear(&options);
    }
    parse_fails("-o|ro=1|/m", "'ro' takes no value");
    parse_fails("-o|delay_connect=|/m", "'delay_connect' takes no value");
}

static void test_ids_and_umask(void **state)
{
    static const char *const bad_ids[] = {"",     "-1", "+1",  "4294967295", "4294967296", "18446744073709551616",
                                          "root", "1x", "0x1", " 1",         "1.0"};
    static const char *const bad_umasks[] = {
        "", "8", "9", "1000", "-1", "0o22", "022x", "u=rwx", "77777777777777777777"};
    struct options options;
    char line[64];

    (void)state;
    parse_ok("-o|uid=1000,gid=0,umask=027|/m", &options);
    assert_int_equal(options.uid, 1000);
    assert_int_equal(options.gid, 0);
    assert_true(options.umask_given);
    assert_int_equal(options.umask, 027);
    options_clear(&options);

    parse_ok("-o|uid=4294967294,gid=4294967294,umask=777|/m", &options);
    assert_int_equal(options.uid, 4294967294);
    assert_int_equal(options.gid, 4294967294);
    assert_int_equal(options.umask, 0777);
    options_clear(&options);

    parse_ok("-o|umask=0|/m", &options);
    assert_true(options.umask_given);
    assert_int_equal(options.umask, 0);
    options_clear(&options);

    for (size_t i = 0; i < sizeof(bad_ids) / sizeof(bad_ids[0]); i++) {
        snprintf(line, sizeof(line), "-o|uid=%s|/m", bad_ids[i]);
        parse_fails(line, "'uid' wants a numeric user ID");
        snprintf(line, sizeof(line), "-o|gid=%s|/m", bad_ids[i]);
        parse_fails(line, "'gid' wants a numeric group ID");
    }
    for (size_t i = 0; i < sizeof(bad_umasks) / sizeof(bad_umasks[0]); i++) {
        snprintf(line, sizeof(line), "-o|umask=%s|/m", bad_umasks[i]);
        parse_fails(line, "'umask' wants an octal mode");
    }
}

static void test_seconds(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused by both */
    } cases[] = {
        {"1", 1000},
        {"10", 10000},
        {"2.5", 2500},
        {"0.001", 1},
        {"0.0019", 1},
        {"1.23456789012345", 1234},
        {"007", 7000},
        {"86400", 86400000},
        {"1.05", 1050},
        {"", -1},
        {".", -1},
        {".5", -1},
        {"1.", -1},
        {"1..2", -1},
        {"1.2.3", -1},
        {"-1", -1},
        {"+1", -1},
        {"1e3", -1},
        {"1s", -1},
        {" 1", -1},
        {"1 ", -1},
        {"inf", -1},
        {"nan", -1},
        {"0x10", -1},
        {"1.5x", -1},
        {"99999999999999999999", -1},
        {"18446744073709551617", -1},
        {"999999999999999999999999999999", -1},
        {"Forever", -1},
        {"foreve", -1},
    };
    struct options options;
    char line[64];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int stale = 0; stale < 2; stale++) {
            snprintf(line, sizeof(line), "-o|%s=%s|/m", stale ? "stale" : "timeout", cases[i].text);
            if (cases[i].ms < 0) {
                parse_fails(line, stale ? "'stale' wants 'forever' or seconds" : "'timeout' wants seconds");
                continue;
            }
            parse_ok(line, &options);
            assert_int_equal(stale ? options.stale_ms : (int64_t)options.timeout_ms, cases[i].ms);
            options_clear(&options);
        }
    }

    /* What only one of them takes. */
    parse_fails("-o|timeout=0|/m", "'timeout' wants seconds above 0");
    parse_fails("-o|timeout=0.0|/m", "'timeout'");
    parse_fails("-o|timeout=0.0009|/m", "'timeout'");
    parse_fails("-o|timeout=86401|/m", "'timeout'");
    parse_fails("-o|timeout=forever|/m", "'timeout'");
    parse_fails("-o|stale=315360001|/m", "'stale'");
    parse_ok("-o|stale=315360000|/m", &options);
    assert_int_equal(options.stale_ms, 315360000000);
    options_clear(&options);
    parse_ok("-o|stale=0|/m", &options);
    assert_int_equal(options.stale_ms, 0);
    options_clear(&options);
    parse_ok("-o|stale=0,stale=forever|/m", &options);
    assert_int_equal(options.stale_ms, OPTIONS_STALE_FOREVER);
    options_clear(&options);
}

static void test_counts(void **state)
{
    static const char *const bad[] = {"", "-1", "x", "1.5", "100001", "4294967360"};
    struct options options;
    char line[64];

    (void)state;
    parse_ok("-o|watches=0,max_threads=4,max_idle_threads=2,clone_fd,delay_connect|/m", &options);
    assert_int_equal(options.watches, 0);
    assert_int_equal(options.max_threads, 4);
    assert_int_equal(options.idle_threads, 2);
    assert_true(options.clone_fd);
    assert_true(options.delay_connect);
    expect_fuse_opts(&options, ""); /* libfuse's session knows none of these */
    options_clear(&options);

    parse_ok("-o|watches=100000|/m", &options);
    assert_int_equal(options.watches, 100000);
    options_clear(&options);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "-o|watches=%s|/m", bad[i]);
        parse_fails(line, "'watches' wants a number");
    }
}

static void test_lock_ttl(void **state)
{
    static const char *const bad[] = {"", "9", "0", "-10", "10.5", "10s", "86401", "4294967306"};
    struct options options;
    char line[64];

    (void)state;
    for (unsigned ttl = 10; ttl <= 86400; ttl += 86390) {
        snprintf(line, sizeof(line), "-o|lock_ttl=%u|/m", ttl);
        parse_ok(line, &options);
        assert_int_equal(options.lock_ttl_s, ttl);
        expect_fuse_opts(&options, "");
        options_clear(&options);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "-o|lock_ttl=%s|/m", bad[i]);
        parse_fails(line, "'lock_ttl' wants whole seconds from 10 to 86400");
    }
}

static void test_passed_on(void **state)
{
    static const char flags[] = "default_permissions,allow_root,auto_unmount,dev,nodev,suid,nosuid,exec,noexec,atime,"
                                "noatime,sync,async,dirsync";
    static const char *const valued[] = {"fsname",    "subtype",    "max_read",   "context",
                                         "fscontext", "defcontext", "rootcontext"};
    struct options options;
    char line[256], joined[256];

    (void)state;
    snprintf(line, sizeof(line), "-o|%s|/m", flags);
    parse_ok(line, &options);
    strcpy(joined, flags);
    for (char *p = joined; (p = strchr(p, ','));)
        *p = ' ';
    expect_fuse_opts(&options, joined);
    options_clear(&options);

    for (size_t i = 0; i < sizeof(valued) / sizeof(valued[0]); i++) {
        snprintf(line, sizeof(line), "-o|%s=4096|/m", valued[i]);
        parse_ok(line, &options);
        snprintf(joined, sizeof(joined), "%s=4096", valued[i]);
        expect_fuse_opts(&options, joined);
        options_clear(&options);
        snprintf(line, sizeof(line), "-o|%s=|/m", valued[i]);
        parse_fails(line, valued[i]);
        snprintf(line, sizeof(line), "-o|%s|/m", valued[i]);
        parse_fails(line, valued[i]);
    }
    parse_fails("-o|nodev=1|/m", "'nodev' takes no value");
}

static void test_has_fuse_opt(void **state)
{
    struct options options;

    (void)state;
    parse_ok("-o|fsname=x,nodev,ro|/m", &options);
    assert_true(options_has_fuse_opt(&options, "fsname="));
    assert_true(options_has_fuse_opt(&options, "nodev"));
    assert_true(options_has_fuse_opt(&options, "ro"));
    assert_false(options_has_fuse_opt(&options, "fsname"));
    assert_false(options_has_fuse_opt(&options, "subtype="));
    assert_false(options_has_fuse_opt(&options, "node"));
    assert_false(options_has_fuse_opt(&options, ""));
    options_clear(&options);
    assert_false(options_has_fuse_opt(&options, "ro"));
}

static void test_ignored(void **state)
{
    static const char *const ignored[] = {
        "defaults",
        "_netdev",
        "auto",
        "noauto",
        "nofail",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "noowner",
        "group",
        "nogroup",
        "comment=a=b",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "diratime",
        "nodiratime",
        "user=me",
        "x-systemd.automount",
        "x-systemd.device-timeout=10",
        "x-gvfs-hide",
        "X-mount.mkdir",
        "X-mount.mkdir=0755",
        "x-",
        "_netdev,noauto,x-systemd.automount,user",
        "",
        ",",
        ",,",
    };
    struct options options;

    (void)state;
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
        char line[128];

        snprintf(line, sizeof(line), "-o|ro,%s,delay_connect|/m", ignored[i]);
        parse_ok(line, &options);
        expect_fuse_opts(&options, "ro");
        assert_string_equal(options.mountpoint, "/m");
        assert_null(options.address);
        assert_true(options.read_only);
        assert_true(options.delay_connect);
        assert_int_equal(options.uid, OPTIONS_NO_UID);
        assert_int_equal(options.gid, OPTIONS_NO_GID);
        assert_false(options.foreground);
        options_clear(&options);
    }
}

static void test_escapes(void **state)
{
    struct options options;

    (void)state;
    parse_ok("-o|datacenter=a\\,b,ro|/m", &options);
    assert_string_equal(options.datacenter, "a,b");
    assert_true(options.read_only);
    options_clear(&options);

    parse_ok("-o|datacenter=a\\\\,ro|/m", &options);
    assert_string_equal(options.datacenter, "a\\");
    assert_true(options.read_only);
    options_clear(&options);

    parse_ok("-o|datacenter=a\\bc\\|/m", &options);
    assert_string_equal(options.datacenter, "abc\\");
    options_clear(&options);

    /* Escaped again for libfuse. */
    parse_ok("-o|fsname=a\\,b\\\\c,nodev|/m", &options);
    expect_fuse_opts(&options, "fsname=a\\,b\\\\c nodev");
    options_clear(&options);

    parse_ok("-o|,,ro,,datacenter=x,|/m", &options);
    assert_true(options.read_only);
    assert_string_equal(options.datacenter, "x");
    options_clear(&options);
}

/* Options after one with a value count, for each of ours. */
static void test_one_after_another(void **state)
{
    static const char *const firsts[] = {
        "token_file=x", "datacenter=x", "root=x",      "root=/",        "uid=1",       "gid=1",         "umask=1",
        "timeout=1",    "stale=1",      "watches=1",   "inotify=1",     "lock_ttl=10", "max_threads=1", "fsname=x",
        "nodev",        "rw",           "allow_other", "delay_connect", "debug",       "auto",          "comment=x"};

    (void)state;
    for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
        struct options options;
        char line[64];

        snprintf(line, sizeof(line), "-o|%s,ro|/m", firsts[i]);
        parse_ok(line, &options);
        assert_true(options.read_only);
        options_clear(&options);
        snprintf(line, sizeof(line), "-o|%s|-o|ro|/m", firsts[i]);
        parse_ok(line, &options);
        assert_true(options.read_only);
        options_clear(&options);
    }
}

/* Parsing is the same again and again, and whatever the environment says. */
static void test_no_state(void **state)
{
    struct options options;

    (void)state;
    parse_fails("-fz|/m", "'-z'");
    parse_ok("/m|-f", &options);
    assert_true(options.foreground);
    options_clear(&options);

    assert_int_equal(setenv("POSIXLY_CORRECT", "1", 1), 0);
    parse_ok("host|/m|-o|ro", &options);
    assert_true(options.read_only);
    assert_string_equal(options.mountpoint, "/m");
    options_clear(&options);
    assert_int_equal(unsetenv("POSIXLY_CORRECT"), 0);
}

/* --help names every option that it is about, in lines for a terminal. */
static void test_usage(void **state)
{
    static const char *const words[] = {
        "ADDRESS",
        "MOUNTPOINT",
        "-f",
        "-d",
        "-h",
        "-V",
        "-o",
        "--foreground",
        "--debug",
        "--help",
        "--version",
        "token_file=",
        "datacenter=",
        "root=",
        "ro",
        "uid=",
        "gid=",
        "umask=",
        "allow_other",
        "timeout=",
        "stale=",
        "watches=",
        "lock_ttl=",
        "delay_connect",
        "default 10",
        "default 64",
        "forever",
        "fusermount3 -u",
        "CONSUL_HTTP_ADDR",
        "CONSUL_HTTP_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
        "CONSUL_HTTP_AUTH",
        "CONSUL_HTTP_SSL",
        "CONSUL_HTTP_SSL_VERIFY",
        "CONSUL_CACERT",
        "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
        "CONSUL_TLS_SERVER_NAME",
        "CONSUL_NAMESPACE",
        "CONSUL_PARTITION",
        "Exit status",
        "  0 ",
        "  1 ",
        "  2 ",
    };
    char *text = NULL, *rest, *line;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);

    (void)state;
    options_usage(stream);
    fclose(stream);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (!strstr(text, words[i]))
            fail_msg("--help does not mention '%s'", words[i]);
    assert_int_equal(text[len - 1], '\n');
    for (rest = text; (line = strsep(&rest, "\n"));)
        if (strlen(line) > 100)
            fail_msg("too long for a terminal: '%s'", line);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_positionals),
        cmocka_unit_test(test_flags),        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_unknown),      cmocka_unit_test(test_secrets_are_not_shown),
        cmocka_unit_test(test_strings),      cmocka_unit_test(test_root),
        cmocka_unit_test(test_read_only),    cmocka_unit_test(test_ids_and_umask),
        cmocka_unit_test(test_seconds),      cmocka_unit_test(test_counts),
        cmocka_unit_test(test_lock_ttl),     cmocka_unit_test(test_passed_on),
        cmocka_unit_test(test_has_fuse_opt), cmocka_unit_test(test_ignored),
        cmocka_unit_test(test_escapes),      cmocka_unit_test(test_one_after_another),
        cmocka_unit_test(test_no_state),     cmocka_unit_test(test_usage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
