#include "view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- text -------------------------------------------------------------------------------------------------------- */

int text_begin(struct text *text)
{
    *text = (struct text){0};
    text->stream = open_memstream(&text->data, &text->len);
    return text->stream ? 0 : -ENOMEM;
}

int text_end(struct text *text, char **ret_data, size_t *ret_len)
{
    int failed = ferror(text->stream);

    failed |= fclose(text->stream);
    if (failed) {
        free(text->data);
        return -ENOMEM;
    }
    *ret_data = text->data;
    *ret_len = text->len;
    return 0;
}

void text_drop(struct text *text)
{
    fclose(text->stream);
    free(text->data);
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

static int to_stream(const char *data, size_t len, void *stream)
{
    return fwrite(data, 1, len, stream) == len ? 0 : -1;
}

/*
 * The shortest spelling that reads back as the same number: jansson would print 0.1 as 0.10000000000000001. jansson's
 * parser and printer ignore the locale, and the daemon never sets one.
 */
static void put_real(FILE *stream, double value)
{
    char digits[32];

    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    fputs(digits, stream);
    if (!strpbrk(digits, ".e")) /* stays a real for whoever tells them apart */
        fputs(".0", stream);
}

static void put_newline(FILE *stream, int depth) { fprintf(stream, "\n%*s", depth * 2, ""); }

static int put_value(FILE *stream, const json_t *json, int depth);

static int put_object(FILE *stream, const json_t *object, int depth)
{
    const char *key;
    json_t *value;
    bool first = true;
    int r;

    fputc('{', stream);
    json_object_foreach((json_t *)object, key, value)
    {
        json_t *name = json_string_nocheck(key);

        if (!name)
            return -ENOMEM;
        if (!first)
            fputc(',', stream);
        first = false;
        put_newline(stream, depth + 1);
        r = put_value(stream, name, depth + 1);
        json_decref(name);
        fputs(": ", stream);
        if (r == 0)
            r = put_value(stream, value, depth + 1);
        if (r < 0)
            return r;
    }
    if (!first)
        put_newline(stream, depth);
    fputc('}', stream);
    return 0;
}

static int put_array(FILE *stream, const json_t *array, int depth)
{
    size_t n = json_array_size(array);
    int r;

    fputc('[', stream);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            fputc(',', stream);
        put_newline(stream, depth + 1);
        r = put_value(stream, json_array_get(array, i), depth + 1);
        if (r < 0)
            return r;
    }
    if (n > 0)
        put_newline(stream, depth);
    fputc(']', stream);
    return 0;
}

/* Recursion is bounded by jansson's parser, which refuses to nest deeper than 2048. */
static int put_value(FILE *stream, const json_t *json, int depth)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return put_object(stream, json, depth);
    case JSON_ARRAY:
        return put_array(stream, json, depth);
    case JSON_REAL:
        put_real(stream, json_real_value(json));
        return 0;
    default:
        return json_dump_callback(json, to_stream, stream, JSON_ENCODE_ANY) == 0 ? 0 : -ENOMEM;
    }
}

int view_document(const json_t *json, char **ret_data, size_t *ret_len)
{
    struct text text;
    int r;

    if (!json)
        return -EIO;
    r = text_begin(&text);
    if (r < 0)
        return r;
    r = put_value(text.stream, json, 0);
    fputc('\n', text.stream);
    if (r < 0) {
        text_drop(&text);
        return r;
    }
    return text_end(&text, ret_data, ret_len);
}

int view_line(const char *value, char **ret_data, size_t *ret_len)
{
    struct text text;
    int r = text_begin(&text);

    if (r < 0)
        return r;
    if (*value)
        fprintf(text.stream, "%s\n", value);
    return text_end(&text, ret_data, ret_len);
}

int view_documents(const json_t *array, const char *member, const char *value, char **ret_data, size_t *ret_len)
{
    const json_t *object;
    struct text text;
    size_t i;
    int r = text_begin(&text);

    if (r < 0)
        return r;
    json_array_foreach(array, i, object)
    {
        if (strcmp(view_string(object, member), value) != 0)
            continue;
        json_dump_callback(object, to_stream, text.stream, JSON_COMPACT);
        fputc('\n', text.stream);
    }
    return text_end(&text, ret_data, ret_len);
}

int view_lines(const json_t *array, char **ret_data, size_t *ret_len)
{
    struct text text;
    json_t *value;
    size_t i;
    int r;

    if (!json_is_array(array))
        return -EIO;
    r = text_begin(&text);
    if (r < 0)
        return r;
    json_array_foreach(array, i, value)
    {
        if (json_is_string(value))
            fprintf(text.stream, "%s\n", json_string_value(value));
    }
    return text_end(&text, ret_data, ret_len);
}

/* ---- looking into answers ---------------------------------------------------------------------------------------- */

const char *view_string(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value ? value : "";
}

const json_t *view_select(const json_t *array, const char *key, const char *value)
{
    json_t *element;
    size_t i;

    json_array_foreach(array, i, element)
    {
        const char *has = json_string_value(json_object_get(element, key));

        if (has && strcmp(has, value) == 0)
            return element;
    }
    return NULL;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static const char json_suffix[] = ".json";

static int append(char out[NAME_SIZE], const char *text)
{
    size_t len = strlen(out), more = strlen(text);

    if (len + more > NAME_LEN_MAX)
        return -ENAMETOOLONG;
    memcpy(out + len, text, more + 1);
    return 0;
}

/* The part before the suffix. */
static int strip_suffix(const char *file, const char *suffix, char out[NAME_SIZE])
{
    size_t len = strlen(file), n = strlen(suffix);

    if (len <= n || len > NAME_LEN_MAX || strcmp(file + len - n, suffix) != 0)
        return -ENOENT;
    memcpy(out, file, len - n);
    out[len - n] = '\0';
    return 0;
}

int view_file_name(const char *consul, const char *suffix, char out[NAME_SIZE])
{
    char name[NAME_SIZE];
    int r = name_encode(consul, strlen(consul), NULL, name);

    if (r == 0)
        r = append(name, suffix);
    if (r == 0)
        strcpy(out, name);
    return r;
}

int view_file_parse(const char *file, const char *suffix, char out[NAME_SIZE])
{
    char name[NAME_SIZE];
    int r = strip_suffix(file, suffix, name);

    return r < 0 ? r : name_decode(name, NULL, out, NAME_SIZE);
}

bool view_is_json_name(const char *file)
{
    char name[NAME_SIZE];

    return strip_suffix(file, json_suffix, name) == 0;
}

int view_json_name(const char *consul, char out[NAME_SIZE]) { return view_file_name(consul, json_suffix, out); }

int view_json_parse(const char *file, char out[NAME_SIZE]) { return view_file_parse(file, json_suffix, out); }

static int full_name(const char *id, const char *node, char out[NAME_SIZE])
{
    char name[NAME_SIZE], at[NAME_SIZE];
    int r = name_encode(id, strlen(id), "@", name);

    if (r == 0 && node)
        r = name_encode(node, strlen(node), NULL, at);
    if (r == 0 && node)
        r = append(name, "@");
    if (r == 0 && node)
        r = append(name, at);
    if (r == 0)
        r = append(name, json_suffix);
    if (r == 0)
        strcpy(out, name);
    return r;
}

int view_owned_name(const char *id, const char *node, const char *local, const char *own, char out[NAME_SIZE])
{
    char name[NAME_SIZE];
    int r;

    if (local && strcmp(node, local) == 0) {
        r = full_name(id, NULL, name);
        if (r < 0)
            return r;
        if (!own || strcmp(name, own) != 0) {
            strcpy(out, name);
            return 0;
        }
    }
    return full_name(id, node, out);
}

int view_owned_parse(const char *file, const char *local, const char *own, char id[NAME_SIZE], char node[NAME_SIZE])
{
    char name[NAME_SIZE], *at;
    int r = strip_suffix(file, json_suffix, name);

    if (r < 0 || (own && strcmp(file, own) == 0))
        return -ENOENT;
    at = strchr(name, '@'); /* the ID has none: it is encoded there */
    if (!at && (!local || strlen(local) >= NAME_SIZE))
        return -ENOENT;
    if (at)
        *at++ = '\0';
    r = name_decode(name, "@", id, NAME_SIZE);
    if (r == 0 && at)
        r = name_decode(at, NULL, node, NAME_SIZE);
    else if (r == 0)
        strcpy(node, local);
    return r;
}
