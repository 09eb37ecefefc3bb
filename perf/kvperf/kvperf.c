/* SPDX-License-Identifier: Apache-2.0 */
/* kvperf.c - the program: which command, and what holds for all of them. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"
#include "options.h"
#include "report.h"
#include "run_batch.h"
#include "run_kv.h"
#include "run_plan.h"
#include "run_replay.h"
#include "server.h"
#include "stop.h"
#include "text.h"

/* A standard descriptor that isn't there would be the next one opened, a connection's, and what is
 * printed would go into that. In its place comes one on which it fails. */
static bool keep_standard_descriptors(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDWR};

    for (int fd = 0; fd <= STDERR_FILENO; ++fd)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd)
            return false;
    return true;
}

static int run(int argc, char **argv)
{
    struct kvp_options o;
    int status;

    if (argc > 1 && strcmp(argv[1], "report") == 0)
        return kvp_report_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], "doctor") == 0)
        return kvp_doctor_main(argc, argv);
    if (!kvp_options_parse(&o, argc, argv, &status))
        return status;
    kvp_stop_catch();
    switch (o.command) {
    case KVP_SERVER:
        return kvp_server_main(&o);
    case KVP_BATCH:
        return kvp_run_batch(&o);
    case KVP_REPLAY:
        return kvp_run_replay(&o);
    case KVP_SWEEP:
        return kvp_run_sweep(&o);
    case KVP_FIND:
        return kvp_run_find(&o);
    case KVP_CODEC:
        return kvp_run_codec(&o);
    case KVP_PLAN:
        return kvp_run_plan(&o);
    default:
        return kvp_run_kv(&o);
    }
}

int main(int argc, char **argv)
{
    if (!keep_standard_descriptors())
        return KVP_EXIT_FAILED;
    return kvp_out_status(run(argc, argv));
}
