/* SPDX-License-Identifier: Apache-2.0 */
/* out.c - from what was measured to files, standard output and an exit status. */
#include "out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host.h"
#include "text.h"

/* --- what all objects have -------------------------------------------------------------------- */

static void put(cJSON *o, const char *field, double value)
{
    cJSON_AddNumberToObject(o, field, value);
}

cJSON *kvp_json_spread(const struct kvp_spread *s)
{
    cJSON *o = cJSON_CreateObject();

    put(o, "n", s->n);
    put(o, "min", s->min);
    put(o, "mean", s->mean);
    put(o, "p50", s->p50);
    put(o, "p90", s->p90);
    put(o, "p99", s->p99);
    put(o, "p999", s->p999);
    put(o, "max", s->max);
    return o;
}

static cJSON *start(const struct kvp_options *options, const struct kvp_client *c)
{
    cJSON *o = cJSON_CreateObject();
    char text[512];
    const time_t now = time(NULL);
    struct tm tm;

    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    cJSON_AddStringToObject(o, "time", text);
    kvp_command_text(options, text, sizeof(text));
    cJSON_AddStringToObject(o, "command", text);
    if (options->title != NULL)
        cJSON_AddStringToObject(o, "title", options->title);
    cJSON_AddStringToObject(o, "features", kvw_features());
    cJSON_AddItemToObject(o, "client",
                          kvp_host_json(c != NULL && c->here[0] != '\0' ? c->here : NULL));
    if (c != NULL && cJSON_GetObjectItemCaseSensitive(c->server, "host") != NULL)
        cJSON_AddItemToObject(
            o, "server",
            cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(c->server, "host"), true));
    return o;
}

static cJSON *path(const struct kvp_options *options, const struct kvp_client *c)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "net", options->net);
    cJSON_AddBoolToObject(o, "both_ends_here", options->host == NULL);
    if (c == NULL)
        return o;
    cJSON_AddStringToObject(o, "from", c->here);
    cJSON_AddStringToObject(o, "to", c->there);
    cJSON_AddStringToObject(o, "sender_says", c->lane_count > 0 ? c->lanes[0].path : "");
    cJSON_AddStringToObject(o, "receiver_says", c->server_path);
    put(o, "clock_error_ms", (double)c->offset_error_ns / 1e6);
    return o;
}

cJSON *kvp_json_head(const char *mode, const struct kvp_options *o, const struct kvp_client *c)
{
    cJSON *to = cJSON_CreateObject();

    put(to, "schema", KVP_SCHEMA);
    cJSON_AddStringToObject(to, "tool", "kvperf");
    cJSON_AddStringToObject(to, "version", kvw_version());
    cJSON_AddStringToObject(to, "mode", mode);
    cJSON_AddItemToObject(to, "start", start(o, c));
    cJSON_AddItemToObject(to, "path", path(o, c));
    return to;
}

void kvp_json_end(cJSON *to, enum kvp_exit status, const char *why)
{
    cJSON *end = cJSON_AddObjectToObject(to, "end");

    cJSON_AddBoolToObject(end, "complete",
                          status == KVP_EXIT_OK || status == KVP_EXIT_THRESHOLD ||
                              status == KVP_EXIT_DATA);
    put(end, "exit", status);
    cJSON_AddStringToObject(end, "error", why);
}

/* --- out -------------------------------------------------------------------------------------- */

/* The JSON to a stream; false: errno says why not all of it is there. */
static bool write_json(FILE *f, const struct kvp_out *out, bool stream)
{
    cJSON *o = out->json(out->of), *line = stream ? cJSON_CreateObject() : NULL;

    if (stream) {
        cJSON_AddStringToObject(line, "event", "result");
        cJSON_AddItemToObject(line, "result", o);
    }
    return kvp_json_write(f, stream ? line : o, !stream);
}

static bool write_file(const struct kvp_out *out, const char *name, bool csv, char *why)
{
    FILE *f = fopen(name, "w");
    bool ok = f != NULL;

    if (ok && csv) {
        out->csv(f, out->of);
        ok = fflush(f) == 0 && !ferror(f);
    } else if (ok) {
        ok = write_json(f, out, false);
    }
    if (f != NULL && fclose(f) != 0)
        ok = false;
    if (!ok)
        snprintf(why, KVP_WHY, "--%s %.150s: %s", csv ? "csv" : "output", name, strerror(errno));
    return ok;
}

static enum kvp_exit complain(enum kvp_exit status, const char *why)
{
    fprintf(stderr, "kvperf: %s\n", why);
    return status != KVP_EXIT_OK ? status : KVP_EXIT_FAILED;
}

int kvp_out(const struct kvp_out *out)
{
    const struct kvp_options *o = out->o;
    enum kvp_exit status = out->status;
    char why[KVP_WHY];

    if (o->json || o->json_stream)
        (void)write_json(stdout, out, o->json_stream);
    else
        out->print(stdout, out->of);
    status = (enum kvp_exit)kvp_out_status(status);
    if (o->output != NULL && !write_file(out, o->output, false, why))
        status = complain(status, why);
    if (o->csv != NULL && !write_file(out, o->csv, true, why))
        status = complain(status, why);
    if (out->why[0] != '\0')
        fprintf(stderr, "kvperf: %s\n", out->why);
    return status;
}
