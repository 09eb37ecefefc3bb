/* SPDX-License-Identifier: Apache-2.0 */
/* Plays inputs into a fuzz target without a fuzzer: each argument is a file, or a folder
 * of files. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static unsigned long inputs;

static void play_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *all = malloc(INPUT_MAX), *exact;
    size_t n;

    if (f == NULL || all == NULL) {
        fprintf(stderr, "can't read %s\n", path);
        exit(1);
    }
    n = fread(all, 1, INPUT_MAX, f);
    fclose(f);
    /* A block of just that size, so that a sanitizer sees the first byte read beyond it. */
    exact = malloc(n > 0 ? n : 1);
    if (exact == NULL)
        exit(1);
    memcpy(exact, all, n);
    free(all);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    ++inputs;
}

static void play(const char *path)
{
    char name[4096];
    struct dirent *entry;
    struct stat st;
    DIR *dir;

    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        play_file(path);
        return;
    }
    if ((dir = opendir(path)) == NULL) {
        fprintf(stderr, "can't read %s\n", path);
        exit(1);
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        play_file(name);
    }
    closedir(dir);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; ++i)
        play(argv[i]);
    printf("%lu inputs ok\n", inputs);
    return inputs > 0 ? 0 : 1; /* an empty corpus proves nothing */
}
