/* SPDX-License-Identifier: Apache-2.0 */
/* server.c - listening, and one client after the other. */
#include "server.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stop.h"

int kvp_serve(const struct kvp_server *server, int listener)
{
    char why[KVP_WHY] = "";

    while (!kvp_stopped()) {
        struct kvp_session s = {.server = server};

        if (!kvp_line_accept(&s.line, listener, why)) {
            if (why[0] == '\0')
                break; /* stopped */
            fprintf(stderr, "kvperf: %s\n", why);
            return KVP_EXIT_FAILED;
        }
        kvp_session_run(&s);
        kvp_line_close(&s.line);
        if (server->one_off)
            break;
    }
    return kvp_stopped() && !server->quiet ? KVP_EXIT_INTERRUPTED : KVP_EXIT_OK;
}

int kvp_server_main(const struct kvp_options *o)
{
    const struct kvp_server s = {.net = o->net, .link = o->link, .one_off = o->one_off};
    char why[KVP_WHY], name[64] = "HOST";
    uint16_t port = o->port;
    const int listener = kvp_line_listen(o->bind, &port, why);
    int status;

    if (listener < 0) {
        fprintf(stderr, "kvperf: %s\n", why);
        return KVP_EXIT_FAILED;
    }
    (void)gethostname(name, sizeof(name) - 1);
    printf("kvperf %s: listening on port %u. On the other host:\n\n    kvperf kv %s%s",
           kvw_version(), port, o->bind != NULL ? o->bind : name,
           strcmp(o->net, "udp") != 0 ? " --net " : "");
    if (strcmp(o->net, "udp") != 0)
        printf("%s --link ITS_DEVICE --peer THIS_DEVICE_S_ADDRESS", o->net);
    if (port != KVP_PORT)
        printf(" -p %u", port);
    printf("\n\n");
    fflush(stdout);
    status = kvp_serve(&s, listener);
    close(listener);
    return status;
}
