/* SPDX-License-Identifier: Apache-2.0 */
/* local.c - both ends here: a server in a process of its own, so that CPU time and memory are each
 * end's own, as they are between hosts. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "stop.h"

bool kvp_local_start(struct kvp_local *l, bool needs_folder, char why[KVP_WHY])
{
    const struct kvp_server server = {.one_off = true, .quiet = true};
    const pid_t parent = getpid();
    int listener;

    memset(l, 0, sizeof(*l));
    if (needs_folder) {
        snprintf(l->folder, sizeof(l->folder), "/tmp/kvperf-XXXXXX");
        if (mkdtemp(l->folder) == NULL) {
            snprintf(why, KVP_WHY, "%s: %s", l->folder, strerror(errno));
            l->folder[0] = '\0';
            return false;
        }
    }
    if ((listener = kvp_line_listen("127.0.0.1", &l->port, why)) < 0)
        return false;
    fflush(NULL);
    l->pid = fork();
    if (l->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0); /* Ctrl-C is for the client, which then ends this one */
        if (getppid() != parent)
            _exit(KVP_EXIT_FAILED);
        _exit(kvp_serve(&server, listener));
    }
    close(listener);
    if (l->pid > 0)
        return true;
    l->pid = 0;
    snprintf(why, KVP_WHY, "no second process: %s", strerror(errno));
    return false;
}

/* The child ends by itself when the connection does; a second is given to it. */
void kvp_local_stop(struct kvp_local *l)
{
    char path[96];

    for (int i = 0; l->pid > 0 && i < 100; ++i) {
        if (waitpid(l->pid, NULL, WNOHANG) == l->pid)
            l->pid = 0;
        else
            usleep(10000);
    }
    if (l->pid > 0) {
        kill(l->pid, SIGKILL);
        (void)waitpid(l->pid, NULL, 0);
    }
    if (l->folder[0] != '\0') {
        for (uint32_t i = 0; i < KVP_LANES_MAX; ++i) {
            snprintf(path, sizeof(path), "%s/link.%u", l->folder, i);
            (void)unlink(path);
        }
        (void)rmdir(l->folder);
    }
    memset(l, 0, sizeof(*l));
}
