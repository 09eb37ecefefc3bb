/* SPDX-License-Identifier: Apache-2.0 */
/* session_beside.c - iperf3 at the server, for one client and one test, at that client's wish. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server.h"

void kvp_session_end_iperf3(struct kvp_session *s)
{
    if (s->iperf3 > 0) {
        kill(s->iperf3, SIGKILL);
        (void)waitpid(s->iperf3, NULL, 0);
    }
    s->iperf3 = 0;
}

/* In the child: what may be called there, and nothing else. Ends with the server, whatever ends
 * that. */
static void become(char *const *words, int quiet, int failed)
{
    const char sign = 1;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)!dup2(quiet, STDOUT_FILENO);
    (void)!dup2(quiet, STDERR_FILENO);
    execvp(words[0], words);
    (void)!write(failed, &sign, 1);
    _exit(127);
}

/* False: it isn't there. */
static bool spawn(struct kvp_session *s, uint16_t port)
{
    char number[8], sign;
    char *words[] = {"iperf3", "-s", "-1", "-p", number, "-B", s->here, NULL};
    const int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int ends[2];
    bool ok = false;

    snprintf(number, sizeof(number), "%u", port);
    if (quiet < 0 || pipe2(ends, O_CLOEXEC) != 0) {
        if (quiet >= 0)
            close(quiet);
        return false;
    }
    s->iperf3 = fork();
    if (s->iperf3 == 0)
        become(words, quiet, ends[1]);
    close(ends[1]); /* the other copy is closed by the exec, or speaks */
    if (s->iperf3 > 0)
        ok = read(ends[0], &sign, 1) == 0;
    close(ends[0]);
    close(quiet);
    if (!ok)
        kvp_session_end_iperf3(s);
    return ok;
}

bool kvp_session_iperf3(struct kvp_session *s, char why[KVP_WHY])
{
    cJSON *reply = kvp_msg("iperf3");
    char unused[KVP_WHY];
    uint16_t port = 0;
    const int fd = kvp_line_listen(s->here, &port, unused); /* a port that is free */

    if (fd >= 0)
        close(fd);
    kvp_session_end_iperf3(s);
    if (fd >= 0 && spawn(s, port))
        cJSON_AddNumberToObject(reply, "port", port);
    else
        cJSON_AddStringToObject(reply, "text", "iperf3 isn't installed at the server");
    return kvp_line_send(&s->line, reply, why);
}
