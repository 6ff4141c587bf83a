/*
 * Consul's agent refuses unknown fields and takes any letter case, so most of what a user can write goes to it as it
 * is. Only the name and the ID are looked at, because the path says them too, and what Consul shows of an instance is
 * turned back into what it takes.
 */
#include "view.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What the catalog and the agent add when they show an instance, and the agent does not take. */
static const char *const shown_only[] = {"CreateIndex", "ModifyIndex", "Datacenter", "ContentHash",
                                         "PeerName",    "Namespace",   "Partition",  NULL};

static __attribute__((format(printf, 2, 3))) int refuse(char **ret_why, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (vasprintf(ret_why, format, args) < 0)
        *ret_why = NULL;
    va_end(args);
    return -EINVAL;
}

static bool is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcasecmp(key, *names) == 0)
            return true;
    return false;
}

/* The member of that name in any letter case. */
static json_t *member(const json_t *object, const char *name)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
    {
        if (strcasecmp(key, name) == 0)
            return value;
    }
    return NULL;
}

/* Says nothing: what Consul leaves out or fills in with zeros. */
static bool is_empty(const json_t *value)
{
    const char *key;
    json_t *inner;

    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_INTEGER:
        return json_integer_value(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        json_object_foreach((json_t *)value, key, inner)
        {
            if (!is_empty(inner))
                return false;
        }
        return true;
    default:
        return false;
    }
}

/* ---- the document as the file shows it --------------------------------------------------------------------------- */

/*
 * The agent derives lan_ipv4 and the like from the address and port where they are not given. Those of the present
 * instance that are derived are left out, or they would stay behind when the user changes the address.
 */
static int without_derived_addresses(const json_t *tagged, const json_t *current, json_t **ret)
{
    const json_t *service = json_object_get(current, "Service");
    json_t *kept = json_object(), *value;
    const char *key;

    if (!kept)
        return -ENOMEM;
    json_object_foreach((json_t *)tagged, key, value)
    {
        if (json_is_object(value) &&
            json_equal(json_object_get(value, "Address"), json_object_get(service, "Address")) &&
            json_equal(json_object_get(value, "Port"), json_object_get(service, "Port")))
            continue;
        if (json_object_set(kept, key, value) < 0) {
            json_decref(kept);
            return -ENOMEM;
        }
    }
    *ret = kept;
    return 0;
}

/* The members of an instance, as the user or Consul wrote them. */
static int take_service(const json_t *service, const json_t *current, json_t *document)
{
    const char *key;
    json_t *value, *kept;
    int r;

    json_object_foreach((json_t *)service, key, value)
    {
        if (is_one_of(key, shown_only))
            continue;
        if ((strcasecmp(key, "Proxy") == 0 || strcasecmp(key, "Connect") == 0) && is_empty(value))
            continue;
        if (strcmp(key, "TaggedAddresses") == 0 && json_is_object(value) && current) {
            r = without_derived_addresses(value, current, &kept);
            if (r < 0)
                return r;
            r = json_object_size(kept) > 0 ? json_object_set(document, key, kept) : 0;
            json_decref(kept);
        } else {
            r = json_object_set(document, key, value);
        }
        if (r < 0)
            return -ENOMEM;
    }
    return 0;
}

/*
 * The catalog's checks are not what an agent takes (they do not tell what is checked) and stay as they are; those that
 * the user added beside them, in the agent's form, are to be registered.
 */
static int take_shown_checks(const json_t *checks, json_t *document)
{
    json_t *added = json_array(), *check;
    size_t i;
    int r = 0;

    if (!added)
        return -ENOMEM;
    json_array_foreach(checks, i, check)
    {
        if (!member(check, "Node"))
            r |= json_array_append(added, check);
    }
    if (r == 0 && json_array_size(added) > 0)
        r = json_object_set(document, "Checks", added);
    json_decref(added);
    return r < 0 ? -ENOMEM : 0;
}

static int take_shown(const json_t *written, const json_t *current, json_t *document, char **ret_why)
{
    const char *key;
    json_t *value;
    int r = 0;

    json_object_foreach((json_t *)written, key, value)
    {
        if (strcasecmp(key, "Service") == 0)
            r = take_service(value, current, document);
        else if (strcasecmp(key, "Checks") == 0)
            r = take_shown_checks(value, document);
        else if (strcasecmp(key, "Node") != 0)
            r = refuse(ret_why, "unknown field \"%s\" beside \"%s\"", key, "Service");
        if (r < 0)
            return r;
    }
    return 0;
}

/* An instance in any of the forms that there are; *ret_document is the caller's. */
static int take_instance(const json_t *written, const json_t *current, json_t **ret_document, char **ret_why)
{
    json_t *document;
    int r;

    if (!json_is_object(written))
        return refuse(ret_why, "not a JSON object");
    document = json_object();
    if (!document)
        return -ENOMEM;
    r = json_is_object(member(written, "Service")) ? take_shown(written, current, document, ret_why)
                                                   : take_service(written, current, document);
    if (r < 0)
        json_decref(document);
    else
        *ret_document = document;
    return r;
}

/* ---- name and ID ------------------------------------------------------------------------------------------------- */

/*
 * Takes every spelling of `names` out of the document; each must say `expected` (NULL: they must agree) or nothing.
 * *ret_said is what they said, the caller's, or NULL.
 */
static int take_out(json_t *document, const char *const *names, const char *expected, char **ret_said, char **ret_why)
{
    char *said = NULL;
    const char *key;
    json_t *value;
    void *next;

    json_object_foreach_safe(document, next, key, value)
    {
        const char *text = json_string_value(value), *wanted = expected ? expected : said;
        int r = 0;

        if (!is_one_of(key, names))
            continue;
        if (!text && !json_is_null(value))
            r = refuse(ret_why, "\"%s\" is not a string", key);
        else if (text && *text && wanted && strcmp(text, wanted) != 0)
            r = refuse(ret_why, "\"%s\" says \"%s\", %s \"%s\"", key, text,
                       expected ? "the path says" : "another spelling of it", wanted);
        else if (text && *text && !said && !(said = strdup(text)))
            r = -ENOMEM;
        if (r < 0) {
            free(said);
            return r;
        }
        json_object_del(document, key);
    }
    *ret_said = said;
    return 0;
}

static int put_string(json_t *document, const char *key, const char *value)
{
    json_t *string = json_string(value);

    if (!string) /* not UTF-8: Consul's JSON cannot carry it */
        return -EINVAL;
    return json_object_set_new(document, key, string) < 0 ? -ENOMEM : 0;
}

/* The path says the name, and the ID unless the document may: then it defaults to the name, as in Consul. */
static int settle_names(json_t *document, const char *service, const char *id, char **ret_why)
{
    static const char *const name_keys[] = {"Name", "Service", NULL};
    static const char *const id_keys[] = {"ID", NULL};
    char *said = NULL;
    int r = take_out(document, name_keys, service, &said, ret_why);

    free(said);
    said = NULL;
    if (r == 0)
        r = take_out(document, id_keys, id, &said, ret_why);
    if (r == 0)
        r = put_string(document, "Name", service);
    if (r == 0)
        r = put_string(document, "ID", id ? id : said ? said : service);
    free(said);
    return r;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

int view_registration(const json_t *written, const char *service, const char *id, const json_t *current,
                      struct registration *ret, char **ret_why)
{
    json_t *document = NULL, *checks;
    int r = take_instance(written, current, &document, ret_why);

    if (r == 0)
        r = settle_names(document, service, id, ret_why);
    if (r < 0) {
        json_decref(document);
        return r;
    }
    checks = member(document, "Checks");
    *ret = (struct registration){
        .document = document,
        .id = json_string_value(json_object_get(document, "ID")),
        .has_checks = (checks && !json_is_null(checks)) || member(document, "Check"),
    };
    return 0;
}

void registration_clear(struct registration *registration)
{
    json_decref(registration->document);
    *registration = (struct registration){0};
}

/* ---- what is not an agent's instance ----------------------------------------------------------------------------- */

/* The document says `value` under `key` or one of its other spellings, or nothing; then it is made to. */
static int settle_string(json_t *document, const char *const *spellings, const char *key, const char *value,
                         char **ret_why)
{
    char *said = NULL;
    int r = take_out(document, spellings, value, &said, ret_why);

    free(said);
    return r < 0 ? r : put_string(document, key, value);
}

/*
 * What a check that was registered shows beside what registers one. Consul does not show what is checked: who writes a
 * check that he has read adds that.
 */
static bool is_shown_of_check(const char *key, const json_t *value)
{
    static const char *const always[] = {"Node", "ServiceName", "ServiceTags", "Type", "Output", NULL};
    static const char *const empty[] = {"Definition", "Interval", "Timeout", "ExposedPort", NULL};

    return is_one_of(key, always) || (is_one_of(key, empty) && is_empty(value));
}

static int take_check(const json_t *written, bool for_agent, json_t **ret_check, char **ret_why)
{
    bool shown = json_is_object(written) && member(written, "Node");
    json_t *check, *value;
    const char *key;

    if (!json_is_object(written))
        return refuse(ret_why, "not a JSON object");
    check = json_object();
    if (!check)
        return -ENOMEM;
    json_object_foreach((json_t *)written, key, value)
    {
        if (is_one_of(key, shown_only) || (for_agent && shown && is_shown_of_check(key, value)))
            continue;
        if (json_object_set(check, key, value) < 0) {
            json_decref(check);
            return -ENOMEM;
        }
    }
    *ret_check = check;
    return 0;
}

int view_check_registration(const json_t *written, const char *id, const char *node, json_t **ret_check, char **ret_why)
{
    static const char *const id_keys[] = {"ID", "CheckID", "check_id", NULL}, *const node_keys[] = {"Node", NULL};
    json_t *check = NULL;
    int r = take_check(written, !node, &check, ret_why);

    if (r == 0)
        r = settle_string(check, id_keys, node ? "CheckID" : "ID", id, ret_why);
    if (r == 0 && node)
        r = settle_string(check, node_keys, "Node", node, ret_why);
    if (r == 0 && !member(check, "Name"))
        r = put_string(check, "Name", id);
    if (r < 0)
        json_decref(check);
    else
        *ret_check = check;
    return r;
}

int view_catalog_service(const json_t *written, const char *service, const char *id, json_t **ret_service,
                         char **ret_why)
{
    static const char *const id_keys[] = {"ID", NULL}, *const name_keys[] = {"Service", "Name", NULL};
    json_t *document = NULL;
    char *said = NULL;
    int r = take_instance(written, NULL, &document, ret_why);

    if (r == 0)
        r = settle_string(document, id_keys, "ID", id, ret_why);
    if (r == 0)
        r = take_out(document, name_keys, service, &said, ret_why);
    if (r == 0)
        r = put_string(document, "Service", service ? service : said ? said : id);
    free(said);
    if (r < 0)
        json_decref(document);
    else
        *ret_service = document;
    return r;
}

const char *view_service_said(const json_t *written)
{
    const json_t *service = member(written, "Service");
    const char *name;

    if (json_is_object(service))
        service = member(service, "Service");
    if (!json_is_string(service))
        service = member(written, "Name");
    name = json_string_value(service);
    return name && *name ? name : NULL;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

/* What the catalog shows of a node, as it takes it. */
static int take_shown_node(const json_t *node, json_t *document)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)node, key, value)
    {
        if (strcasecmp(key, "CreateIndex") == 0 || strcasecmp(key, "ModifyIndex") == 0 || is_empty(value))
            continue;
        if (json_object_set(document, strcasecmp(key, "Meta") == 0 ? "NodeMeta" : key, value) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* {"Node":{…}, "Services":{…}}: one request registers one service, so they are to be as they are. */
static int take_shown_catalog(const json_t *written, const json_t *current, json_t *document, char **ret_why)
{
    const char *key;
    json_t *value;
    int r = 0;

    json_object_foreach((json_t *)written, key, value)
    {
        if (strcasecmp(key, "Node") == 0)
            r = take_shown_node(value, document);
        else if (strcasecmp(key, "Services") != 0)
            r = refuse(ret_why, "unknown field \"%s\" beside \"%s\"", key, "Node");
        else if (!is_empty(value) && !json_equal(value, json_object_get(current, "Services")))
            r = refuse(ret_why, "services are changed as nodes/NODE/services/ID.json");
        if (r < 0)
            return r;
    }
    return 0;
}

int view_node_registration(const json_t *written, const char *node, const char *datacenter, const json_t *current,
                           json_t **ret_document, char **ret_why)
{
    static const char *const node_keys[] = {"Node", NULL}, *const datacenter_keys[] = {"Datacenter", NULL};
    bool shown = json_is_object(written) && json_is_object(member(written, "Node"));
    json_t *document;
    int r = 0;

    if (!json_is_object(written))
        return refuse(ret_why, "not a JSON object");
    document = shown ? json_object() : json_copy((json_t *)written);
    if (!document)
        return -ENOMEM;
    if (shown)
        r = take_shown_catalog(written, current, document, ret_why);
    if (r == 0)
        r = settle_string(document, node_keys, "Node", node, ret_why);
    if (r == 0 && datacenter)
        r = settle_string(document, datacenter_keys, "Datacenter", datacenter, ret_why);
    if (r < 0)
        json_decref(document);
    else
        *ret_document = document;
    return r;
}

/* ---- has it arrived? --------------------------------------------------------------------------------------------- */

/* Absent and empty are the same; a registration has no more to say about tags than their order. */
static bool same_value(const json_t *one, const json_t *other)
{
    if (!one || is_empty(one))
        return !other || is_empty(other);
    return other && json_equal(one, other);
}

/* The checks that the document asks for. */
static size_t count_checks(const json_t *document)
{
    const json_t *one = member(document, "Check");

    return json_array_size(member(document, "Checks")) + (one && !is_empty(one));
}

static size_t count_own_checks(const json_t *entry)
{
    const char *id = view_instance_id(entry);
    json_t *check;
    size_t i, n = 0;

    json_array_foreach(json_object_get(entry, "Checks"), i, check)
    {
        n += strcmp(view_string(check, "ServiceID"), id) == 0;
    }
    return n;
}

bool view_shows_registration(const json_t *entry, const json_t *document)
{
    static const char *const fields[] = {"Address", "Port", "Tags", "Meta"};
    const json_t *service = json_object_get(entry, "Service");

    if (!service || count_own_checks(entry) < count_checks(document))
        return false;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (!same_value(member(document, fields[i]), json_object_get(service, fields[i])))
            return false;
    return true;
}
