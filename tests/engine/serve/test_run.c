/* SPDX-License-Identifier: Apache-2.0 */
/* kvserve run answers on standard output, ends a request in both workers when one fails or the
 * reader leaves, and reports each line of a batch in its place. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "../../../engine/serve/run.h"
#include "fakes.h"
#include "serve_model.h"

static char model[32], answers[64], errors[64];

static void set_up(void)
{
    signal(SIGPIPE, SIG_IGN);
    serve_model_write(model);
    fakes_open();
    snprintf(answers, sizeof(answers), "%s/out", fakes_dir);
    snprintf(errors, sizeof(errors), "%s/err", fakes_dir);
}

static void tear_down(void)
{
    unlink(answers);
    unlink(errors);
    unlink(model);
    fakes_close();
}

TestSuite(run, .init = set_up, .fini = tear_down, .timeout = 60);

static struct kve_run_config config(void)
{
    return (struct kve_run_config){
        .spawn = {.worker = {.model_path = model, .net = "udp", .open_timeout_ns = 5 * KVE_S},
                  .prefill_at = fakes_at[0],
                  .decode_at = fakes_at[1]},
        .prompt = "hello",
        .raw = true,
        .json = true,
        .max_tokens = 5,
        .timeout_ns = 30 * KVE_S,
        .sample = {.top_p = 1, .seed = 3},
    };
}

static void read_file(const char *path, char *text, size_t bytes)
{
    FILE *f = fopen(path, "r");

    cr_assert_not_null(f);
    text[fread(text, 1, bytes - 1, f)] = '\0';
    fclose(f);
}

/* Run with the fakes; out: where the answer goes, -1: a file that the text comes from. The exit
 * status; what was written to standard output and standard error. */
static int run_main(const struct kve_run_config *cfg, int out, char *text, char *error,
                    size_t bytes)
{
    const int keep[2] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
    const int fd = open(answers, O_RDWR | O_CREAT | O_TRUNC, 0600);
    const int err = open(errors, O_RDWR | O_CREAT | O_TRUNC, 0600);

    fakes_start();
    dup2(out >= 0 ? out : fd, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    const int status = kve_run_main(cfg);
    dup2(keep[0], STDOUT_FILENO);
    dup2(keep[1], STDERR_FILENO);
    fakes_join();
    close(fd);
    close(err);
    read_file(answers, text, bytes);
    read_file(errors, error, bytes);
    return status;
}

static char text[1 << 16], error[1 << 16];

Test(run, an_answer_comes_as_one_object)
{
    const struct kve_run_config cfg = config();

    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
    cJSON *obj = cJSON_Parse(text);
    cr_expect_str_eq(kve_json_str(obj, "text"), "abcde");
    cr_expect_str_eq(kve_json_str(obj, "finish_reason"), "length");
    cr_expect_eq(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(obj, "output_tokens")), 5);
    cr_expect_null(cJSON_GetObjectItemCaseSensitive(obj, "line"));
    cr_expect_str_empty(error);
    cr_expect(fakes[0].requests == 1 && fakes[1].requests == 1);
    cr_expect(fakes[0].cancels == 0 && fakes[1].cancels == 0);
    cJSON_Delete(obj);
}

/* One of the two refuses: the other one hears it within a round trip, not after its patience. */
static void one_refuses(int refuser)
{
    const struct kve_run_config cfg = config();
    struct fake *other = &fakes[1 - refuser];

    fakes[refuser].script = REFUSES;
    other->script = WAITS;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "no free KV blocks here") != NULL, "%s", error);
    cr_expect_eq(strchr(error, '\n'), strrchr(error, '\n'), "more than a sentence: %s", error);
    cr_assert_eq(other->cancels, 1);
    cr_expect_lt(other->canceled_ns - fakes[refuser].told_ns, KVE_S);
    cr_expect_str_empty(text);
}

Test(run, a_decode_that_refuses_stops_the_prefill)
{
    one_refuses(1);
}

Test(run, a_prefill_that_refuses_stops_the_decode)
{
    one_refuses(0);
}

Test(run, busy_for_another_request_is_not_ours)
{
    const struct kve_run_config cfg = config();

    fakes[1].script = BUSY_ELSEWHERE;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
}

Test(run, a_character_that_the_answer_cuts_off_is_shown_as_one)
{
    struct kve_run_config cfg = config();

    fakes[1].script = CUTS_OFF;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
    cJSON *obj = cJSON_Parse(text);
    cr_expect_str_eq(kve_json_str(obj, "text"), "abcde\xef\xbf\xbd");
    cJSON_Delete(obj);
}

Test(run, so_it_is_where_the_answer_is_printed)
{
    struct kve_run_config cfg = config();

    cfg.json = false;
    fakes[1].script = CUTS_OFF;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
    cr_expect_eq(strncmp(text, "abcde\xef\xbf\xbd\n", 9), 0, "%s", text);
}

static void *close_late(void *fd)
{
    usleep(500 * 1000);
    close(*(int *)fd);
    return NULL;
}

/* Also where nothing is written before the end. */
static void a_reader_leaves(bool json)
{
    struct kve_run_config cfg = config();
    pthread_t closer;
    int ends[2];

    cfg.json = json;
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    fakes[0].script = WAITS;
    fakes[1].script = BABBLES;
    cr_assert_eq(pthread_create(&closer, NULL, close_late, &ends[0]), 0);
    const uint64_t start = kve_now_ns();
    cr_expect_eq(run_main(&cfg, ends[1], text, error, sizeof(text)), 1);
    cr_expect_lt(kve_now_ns() - start, 10 * KVE_S);
    cr_expect(strstr(error, "its reader has left") != NULL, "%s", error);
    cr_expect(fakes[0].cancels == 1 && fakes[1].cancels == 1);
    pthread_join(closer, NULL);
}

Test(run, a_reader_that_leaves_ends_the_work_in_both)
{
    a_reader_leaves(false);
}

Test(run, a_reader_of_json_that_leaves_ends_the_work_in_both)
{
    a_reader_leaves(true);
}

Test(run, a_reader_that_stands_still_loses_nothing)
{
    struct kve_run_config cfg = config();
    static char got[1 << 20];
    size_t n = 0;
    ssize_t bytes;
    int ends[2];

    cfg.json = false;
    cfg.max_tokens = 600;
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_geq(fcntl(ends[1], F_SETPIPE_SZ, 4096), 0);
    const pid_t reader = fork();
    if (reader == 0) {
        close(ends[1]);
        sleep(1);
        while ((bytes = read(ends[0], got + n, 64)) > 0)
            n += (size_t)bytes;
        /* 600 letters, then the report, which a pipe of 4096 bytes can't take at once */
        for (size_t i = 0; i < 600; ++i)
            if (n < 600 || got[i] != (char)('a' + i % 26))
                _exit(1);
        got[n] = '\0';
        _exit(strstr(got, "prompt 1 tokens, answer 600 tokens (length)") != NULL ? 0 : 2);
    }
    close(ends[0]);
    cr_expect_eq(run_main(&cfg, ends[1], text, error, sizeof(text)), 0, "%s", error);
    close(ends[1]);
    int status = -1;
    cr_assert_eq(waitpid(reader, &status, 0), reader);
    cr_expect_eq(status, 0, "%x", status);
}

Test(run, a_full_disk_is_no_success)
{
    struct kve_run_config cfg = config();
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    cr_expect_eq(run_main(&cfg, full, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "No space left") != NULL, "%s", error);
}

Test(run, a_worker_that_hangs_up_ends_the_request)
{
    const struct kve_run_config cfg = config();

    fakes[0].script = HANGS_UP;
    fakes[1].script = WAITS;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "prefill: the worker hung up") != NULL, "%s", error);
    cr_expect_eq(fakes[1].cancels, 1);
}

Test(run, a_request_ends_with_its_time)
{
    struct kve_run_config cfg = config();
    const uint64_t start = kve_now_ns();

    cfg.timeout_ns = 500 * KVE_MS;
    fakes[0].script = fakes[1].script = DEAF;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "time ran out") != NULL, "%s", error);
    cr_expect_lt(kve_now_ns() - start, 10 * KVE_S);
}

static char batch[64];

static struct kve_run_config batch_config(const char *lines)
{
    struct kve_run_config cfg = config();
    FILE *f;

    snprintf(batch, sizeof(batch), "%s", model);
    batch[5] = 'K'; /* beside it */
    f = fopen(batch, "w");
    cr_assert_not_null(f);
    fputs(lines, f);
    fclose(f);
    cfg.prompt = NULL;
    cfg.batch_path = batch;
    return cfg;
}

/* Line n (from 0 on) of the output as an object, the caller's. */
static cJSON *output_line(int n)
{
    char *at = text;

    for (; n > 0 && at != NULL; --n)
        at = strchr(at, '\n') != NULL ? strchr(at, '\n') + 1 : NULL;
    return at != NULL ? cJSON_Parse(at) : NULL;
}

/* What the line says: "N error" or "N text". */
static void expect_line(int n, uint64_t number, const char *key, const char *want)
{
    cJSON *obj = output_line(n);
    uint64_t got = 0;

    cr_expect(kve_json_u64(obj, "line", 1, 99, &got) && got == number, "output %d: line %llu", n,
              (unsigned long long)got);
    cr_expect(strstr(kve_json_str(obj, key), want) != NULL, "output %d: %s", n,
              kve_json_str(obj, key));
    cr_expect_eq(cJSON_HasObjectItem(obj, "error"), strcmp(key, "error") == 0);
    cJSON_Delete(obj);
}

Test(run, a_bad_line_is_reported_in_its_place_and_the_others_run)
{
    const struct kve_run_config cfg =
        batch_config("{\"prompt\":\"hello\",\"max_tokens\":\"3\"}\n"
                     "\n"
                     "{\"prompt\":\"hello\",\"max_tokens\":2,\"seed\":77}\n"
                     "{\"prompt\":\n"
                     "{\"tokens\":[260,261],\"max_tokens\":3}\n"
                     "{\"tokens\":[267]}\n");

    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    expect_line(0, 1, "error", "max_tokens: \"3\" is no whole number");
    expect_line(1, 3, "text", "ab");
    expect_line(2, 4, "error", "no JSON");
    expect_line(3, 5, "text", "abc");
    expect_line(4, 6, "error", "tokens[0]: 267 is no id");
    cr_expect_null(output_line(5));
    cr_expect(strstr(error, "3 of 5 lines failed; line 1: max_tokens") != NULL, "%s", error);
    cr_expect_eq(fakes[1].requests, 2);
    cr_expect_eq(fakes[1].last.sample.seed, 3, "line 5 says none: the option's");
    unlink(batch);
}

Test(run, a_line_has_its_own_seed_and_length)
{
    const struct kve_run_config cfg =
        batch_config("{\"prompt\":\"hello\",\"max_tokens\":2,\"seed\":77}\n");

    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
    for (int i = 0; i < 2; ++i) {
        cr_expect_eq(fakes[i].last.sample.seed, 77);
        cr_expect_eq(fakes[i].last.max_tokens, 2);
    }
    unlink(batch);
}

Test(run, a_request_that_fails_is_one_line_of_its_batch)
{
    const struct kve_run_config cfg =
        batch_config("{\"prompt\":\"hello\"}\n{\"prompt\":\"hello\"}\n");

    fakes[1].script = REFUSES_FIRST;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    expect_line(0, 1, "error", "no free KV blocks here");
    expect_line(1, 2, "text", "abcde");
    unlink(batch);
}

Test(run, a_batch_ends_with_its_worker)
{
    const struct kve_run_config cfg =
        batch_config("{\"prompt\":\"hello\"}\n{\"prompt\":\"hello\"}\n{\"prompt\":\"hello\"}\n");

    fakes[1].script = HANGS_UP;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "decode: the worker hung up") != NULL, "%s", error);
    cr_expect_eq(fakes[0].requests, 1);
    unlink(batch);
}

Test(run, a_batch_file_that_cant_be_read_is_said)
{
    struct kve_run_config cfg = config();

    cfg.prompt = NULL;
    cfg.batch_path = "/tmp";
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 1);
    cr_expect(strstr(error, "/tmp: Is a directory") != NULL, "%s", error);
}

Test(run, an_answer_that_fills_the_context_is_asked_for)
{
    struct kve_run_config cfg = config();

    cfg.max_tokens = 10000;
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 0, "%s", error);
    cr_expect_eq(fakes[1].last.max_tokens, TINY_CONTEXT - 1, "\"hello\" is one token");
}

Test(run, a_signal_ends_the_request)
{
    const struct kve_run_config cfg = config();

    fakes[0].script = fakes[1].script = WAITS;
    kve_run_interrupt(SIGHUP);
    cr_expect_eq(run_main(&cfg, -1, text, error, sizeof(text)), 128 + SIGHUP);
    cr_expect(strstr(error, "interrupted") != NULL, "%s", error);
}
