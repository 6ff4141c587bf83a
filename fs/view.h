/*
 * Views: from Consul's decoded answers to the bytes and names that the tree shows.
 *
 * Pure functions: no I/O, no clock, no globals, callable from any thread. What is passed in is borrowed; what comes
 * back through ret_data is malloc'd, NUL-terminated, the NUL not counted. They return 0, -ENOMEM, or -EIO for an answer
 * that is not what the endpoint is documented to give; ret_… stay untouched on failure.
 */
#ifndef CONSULFS_VIEW_H
#define CONSULFS_VIEW_H

#include "name.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* ---- view.c: text, documents, names ------------------------------------------------------------------------------ */

/* A stream into memory. text_end() gives the bytes, or -ENOMEM if any of them could not be stored. */
struct text {
    FILE *stream;
    char *data;
    size_t len;
};
int text_begin(struct text *text);
int text_end(struct text *text, char **ret_data, size_t *ret_len);
/* Gives up what was begun. */
void text_drop(struct text *text);

/* The whole of it, indented by two spaces, in the order of the answer, numbers as they were, a newline at the end. */
int view_document(const json_t *json, char **ret_data, size_t *ret_len);
/* One value; "" is an empty file. */
int view_line(const char *value, char **ret_data, size_t *ret_len);
/* The objects of the array whose member is that string, each on a line of its own. */
int view_documents(const json_t *array, const char *member, const char *value, char **ret_data, size_t *ret_len);
/* One string of the array a line. */
int view_lines(const json_t *array, char **ret_data, size_t *ret_len);

/* The string member, or "" where there is none. */
const char *view_string(const json_t *object, const char *key);
/* The first object of the array with that string member, or NULL. */
const json_t *view_select(const json_t *array, const char *key, const char *value);

/* "NAMEsuffix" and back; errors as of view_json_name(). */
int view_file_name(const char *consul, const char *suffix, char out[NAME_SIZE]);
int view_file_parse(const char *file, const char *suffix, char out[NAME_SIZE]);
/*
 * "NAME.json" and back. -ENAMETOOLONG, -EINVAL: such a name cannot be a file; -ENOENT: such a file does not exist,
 * because encoding would not produce it.
 */
/* Whether it ends in ".json" with something before that. */
bool view_is_json_name(const char *file);
int view_json_name(const char *consul, char out[NAME_SIZE]);
int view_json_parse(const char *file, char out[NAME_SIZE]);

/*
 * Things that are unique on a node only (instances, checks): the listed name is ID.json for those on `local`, the node
 * of this mount's agent (NULL: unknown), else ID@NODE.json, which resolves for all. `own` is a name in that directory
 * that is not to be shadowed, or NULL. Errors as above.
 */
int view_owned_name(const char *id, const char *node, const char *local, const char *own, char out[NAME_SIZE]);
int view_owned_parse(const char *file, const char *local, const char *own, char id[NAME_SIZE], char node[NAME_SIZE]);

/* ---- view_table.c: tables for people ----------------------------------------------------------------------------- */

/*
 * `titles` ends with NULL, at most 16 columns; `rows` is an array of arrays of strings. Columns are as wide as they
 * need to be, two blanks apart; what is absent or empty is "-". Without rows (NULL) it is -ENOMEM, for who has built
 * them.
 */
int view_table(const char *const *titles, const json_t *rows, char **ret_data, size_t *ret_len);

/* ---- view_members.c: what /v1/agent/members answers ---------------------------------------------------------------
 */

/* A table for people, as `consul members` prints it, by name. */
int view_members(const json_t *members, char **ret_data, size_t *ret_len);

/* ---- view_health.c: what /v1/health/service/X answers ------------------------------------------------------------ */

/* In Consul's order of severity. */
enum view_status { VIEW_PASSING, VIEW_WARNING, VIEW_CRITICAL };

enum view_status view_check_status(const json_t *check);
/* The worst of the instance's own checks and its node's, as Consul's ?passing has it. */
enum view_status view_instance_status(const json_t *entry);

const char *view_instance_id(const json_t *entry);
const char *view_instance_node(const json_t *entry);
/* The instance's own address, or its node's where it has none. */
const char *view_instance_host(const json_t *entry);
int view_instance_port(const json_t *entry);
/* The instance of that ID, on that node (NULL: on any), or NULL. */
const json_t *view_find_instance(const json_t *health, const char *id, const char *node);
/* Whether a live agent answers for the node whose checks these are. */
bool view_is_alive(const json_t *checks);
/* The same for the instance's node. */
bool view_has_live_agent(const json_t *entry);

/* "10.0.0.7:8080", "[2001:db8::1]:80"; without a port the address alone. */
int view_address(const char *host, int port, char **ret_address);
/* Instances from `best` to `worst`, an address a line, in the order of the answer. */
int view_addresses(const json_t *health, enum view_status best, enum view_status worst, char **ret_data,
                   size_t *ret_len);
/* The tags of all instances, each once, sorted by their bytes. */
int view_tags(const json_t *health, char **ret_data, size_t *ret_len);

/* ---- view_checks.c: what /v1/health/state/any answers ------------------------------------------------------------ */

/* Whether a check belongs to the directory any, passing, warning or critical. */
bool view_check_is(const json_t *check, const char *state);
/* The check in that directory, or NULL. */
const json_t *view_find_check(const json_t *checks, const char *state, const char *id, const char *node);
/* A table for people, the worst first. */
int view_checks_summary(const json_t *checks, char **ret_data, size_t *ret_len);

/* ---- view_registration.c: from what the user wrote to what the agent takes --------------------------------------- */

struct registration {
    json_t *document; /* for PUT /v1/agent/service/register */
    const char *id;   /* in the document */
    bool has_checks;  /* it says which checks there are to be */
};

/*
 * `written` is a registration in any spelling that Consul takes, or an instance's document as the file shows it
 * ({"Node":…, "Service":{…}, "Checks":[…]}), so that read, edit, write works. `service` is what the path says, and `id`
 * too unless NULL; a document that says otherwise is -EINVAL, with why in *ret_why (a line that the caller frees).
 * `current` is the instance as it is registered, or NULL. What is not known here is left to Consul to refuse.
 */
int view_registration(const json_t *written, const char *service, const char *id, const json_t *current,
                      struct registration *ret, char **ret_why);
void registration_clear(struct registration *registration);
/*
 * A check as the agent takes it, or, with `node`, as the catalog does for that node. `id` is what the path says.
 * *ret_check is the caller's; the rest as above.
 */
int view_check_registration(const json_t *written, const char *id, const char *node, json_t **ret_check,
                            char **ret_why);
/* An instance as the catalog takes it for a node without an agent: "ID" and "Service" say what the path does. */
int view_catalog_service(const json_t *written, const char *service, const char *id, json_t **ret_service,
                         char **ret_why);
/*
 * A document of /v1/catalog/register, or the node's as the file shows it ({"Node":{…}, "Services":{…}}). Its node and
 * datacenter (NULL: not known) are what the path says. `current` is what the catalog shows now, or NULL.
 */
int view_node_registration(const json_t *written, const char *node, const char *datacenter, const json_t *current,
                           json_t **ret_document, char **ret_why);
/* The service's name as what was written says it, borrowed, or NULL. */
const char *view_service_said(const json_t *written);
/* Whether the catalog's entry of the instance shows what was registered. */
bool view_shows_registration(const json_t *entry, const json_t *document);

#endif
