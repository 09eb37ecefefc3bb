/* SPDX-License-Identifier: Apache-2.0 */
/* The link's directory goes with its process: what a killed one left is removed by the next, what a
 * living one holds and what isn't ours stays. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../engine/gguf/gguf.h"
#include "../../../engine/serve/tempdir.h"

static char base[32], why[KVE_WHY_BYTES];

static void set_up(void)
{
    strcpy(base, "/tmp/kve-base-XXXXXX");
    cr_assert_not_null(mkdtemp(base));
}

static void tear_down(void)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -r %s", base);
    cr_expect_eq(system(command), 0);
}

TestSuite(tempdir, .init = set_up, .fini = tear_down, .timeout = 20);

static bool there(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static void put(const char *dir, const char *name)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
}

/* Another process opens one and puts both files there; it lives until it is killed. */
static pid_t other(char *path)
{
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct kve_tempdir d;

        if (kve_tempdir_open(&d, base, why) != KVW_OK)
            _exit(1);
        put(d.path, KVE_TEMPDIR_SOCKET);
        put(d.path, KVE_TEMPDIR_LOCK);
        if (write(ends[1], d.path, KVE_TEMPDIR_BYTES) != KVE_TEMPDIR_BYTES)
            _exit(1);
        pause();
    }
    cr_assert_eq(read(ends[0], path, KVE_TEMPDIR_BYTES), KVE_TEMPDIR_BYTES);
    close(ends[0]);
    close(ends[1]);
    return pid;
}

Test(tempdir, what_a_killed_process_left_goes_with_the_next_and_a_living_ones_stays)
{
    char killed[KVE_TEMPDIR_BYTES], living[KVE_TEMPDIR_BYTES];
    struct kve_tempdir d;
    const pid_t a = other(killed), b = other(living);

    kill(a, SIGKILL);
    waitpid(a, NULL, 0);
    cr_expect(there(killed), "a control: nothing else removes it");
    cr_assert_eq(kve_tempdir_open(&d, base, why), KVW_OK, "%s", why);
    cr_expect_not(there(killed));
    cr_expect(there(living) && there(d.path));
    kve_tempdir_close(&d);
    cr_expect_not(there(d.path));
    kill(b, SIGKILL);
    waitpid(b, NULL, 0);
    kve_tempdir_sweep(base);
    cr_expect_not(there(living));
}

Test(tempdir, what_is_not_ours_stays)
{
    char path[4][64];

    for (int i = 0; i < 3; ++i) {
        static const char *const names[] = {"kvserve-papers", "kvserve-a", "kvserve-target1"};

        snprintf(path[i], sizeof(path[i]), "%s/%s", base, names[i]);
        cr_assert_eq(mkdir(path[i], 0700), 0);
    }
    put(path[0], KVE_TEMPDIR_SOCKET);
    put(path[0], "thesis.txt");
    snprintf(path[3], sizeof(path[3]), "%s/kvserve-symlnk", base);
    cr_assert_eq(symlink(path[2], path[3]), 0);
    kve_tempdir_sweep(base);
    for (int i = 0; i < 4; ++i)
        cr_expect(there(path[i]), "%s", path[i]);
    strcat(path[0], "/" KVE_TEMPDIR_SOCKET);
    cr_expect(there(path[0]), "a directory with other files is left whole");
}

Test(tempdir, a_directory_that_cannot_be_made_is_a_sentence)
{
    struct kve_tempdir d;
    char path[64];

    snprintf(path, sizeof(path), "%s/file", base);
    put(base, "file");
    cr_assert_eq(chmod(path, 0700), 0);
    cr_expect_eq(kve_tempdir_open(&d, path, why), KVW_E_IO);
    cr_expect(strstr(why, "Not a directory") != NULL, "%s", why);
    kve_tempdir_close(&d);
}
