/* SPDX-License-Identifier: Apache-2.0 */
/* help.c - what kvserve --help says. */
#include "help.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../gguf/gguf.h"
#include "clock.h"
#include "output.h"

const char *const kve_help[] = {
    "kvserve - prefill and decode in two processes, the KV cache streamed between them layer by "
    "layer\n"
    "\n"
    "  kvserve up      --model FILE [options]                 a server: both workers, and HTTP as "
    "OpenAI's\n"
    "  kvserve run     --model FILE --prompt TEXT [options]   start both workers, answer, report\n"
    "  kvserve prefill --model FILE --control SOCK [options]  a worker that reads prompts\n"
    "  kvserve decode  --model FILE --control SOCK [options]  a worker that writes answers\n"
    "  kvserve router  --model FILE --prefill-at SOCK --decode-at SOCK [options]  HTTP before "
    "running workers\n"
    "  kvserve tokenize --model FILE --prompt TEXT [--raw]    the prompt's token ids\n"
    "\n"
    "Try:\n"
    "  kvserve up --model SmolLM2.gguf        then open http://127.0.0.1:8080 and chat, or\n"
    "  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
    "\"content\": \"Hello!\"}]}'\n"
    "  kvserve run --model SmolLM2.gguf --prompt 'Why is the sky blue?'\n"
    "  kvserve run --model SmolLM2.gguf --batch prompts.jsonl --net udp --json\n"
    "\n"
    "Model and request\n"
    "  --model FILE          GGUF, llama architecture\n"
    "  --decode-model FILE   run: another file for decode (the handshake refuses a different "
    "model)\n"
    "  --prompt TEXT         run: one user turn in the model's chat format\n"
    "  --prompt-file FILE    run: the same from a file\n"
    "  --system TEXT         run: the system turn\n"
    "  --raw                 run: the prompt as it is, without chat format\n"
    "  --batch FILE          run: a JSON object a line, {\"prompt\": ..} or {\"tokens\": [..]}; - "
    "for stdin.\n"
    "                        Beside it system, max_tokens, temperature, top_p, seed, ignore_end, "
    "timeout_ms,\n"
    "                        budget (0 exact, 1 e8, 2 e4), exact_first, exact_last, after_prefill, "
    "top_k, min_p,\n"
    "                        frequency_penalty, presence_penalty, repetition_penalty, logit_bias "
    "[id, bias, ..],\n"
    "                        logprobs (1 + how many others), reuse. A bad line is reported in its "
    "place and the\n"
    "                        others run\n"
    "  --save FILE           run: K and V of the prompt to this file, after the answer (l0; with "
    "--budget\n"
    "                        smaller, and no longer exact); engine/session/README.md\n"
    "  --restore FILE        run: K and V of a prompt that begins alike, which aren't computed "
    "again\n"
    "  --max-tokens N        length of the answer, 256 by default\n"
    "  --temperature T       0 (default): greedy\n"
    "  --top-p P             1 (default): off\n"
    "  --seed N              of the sampling, 0 by default\n"
    "  --ignore-end          run: do not stop at end-of-generation tokens\n"
    "  --timeout SECONDS     of one request, 600 by default\n"
    "\n",
    "HTTP (up, router)\n"
    "  POST /v1/chat/completions, /v1/completions, /tokenize; GET /v1/models, /metrics, /health, / "
    "(a page)\n"
    "  --listen ADDR:PORT    127.0.0.1:8080 by default; port 0 is a free one; standard output has "
    "the URL\n"
    "  --api-key-file FILE   its first line is the key that clients must send; /, /health need "
    "none\n"
    "  --prefill N, --decode M   up: so many workers of each kind, 1 by default; several are\n"
    "                        linked by udp, each with each of the other side\n"
    "  --policy NAME         up: who is picked: finish (default), prefix, least-loaded,\n"
    "                        power-of-two, round-robin, random (engine/route/README.md)\n"
    "  --ttft SECONDS, --itl SECONDS   promises: until the first token, and between two. What\n"
    "                        would break one is 429 at once; without them only --queue refuses\n"
    "  --local TOKENS        with finish: a prompt that lacks so few may be computed where its\n"
    "                        answer is written, and so may any behind a slow link; 0: none.\n"
    "                        512 with several workers, 0 with a pair\n"
    "  --lend SECONDS        several, with finish: a worker of the idle side does the other\n"
    "                        side's work, for so long at least (10); 0: none does\n"
    "  --sequences N         answers that each decode writes at once\n"
    "  --queue N             requests that may wait, 64 by default; one more gets 429\n"
    "  --max-body BYTES      of a request, 2 MiB by default\n"
    "  --connections N       at once, 256 by default\n"
    "  --no-reuse            compute and send all of each prompt, whatever earlier ones began "
    "with\n"
    "  --max-tokens N        of a chat's answer whose request names no limit, 1024 by default\n"
    "  --timeout SECONDS     of one request, the queue included\n"
    "  TERM and INT end it after what runs and waits; the second one ends it at once\n"
    "\n",
    "Between the workers\n"
    "  --net NAME            dpdk (default), udp, loop (threads of one process), none (no "
    "transfer)\n"
    "  --link ADDRESS        dpdk: path of the Unix socket; udp: ADDR:PORT to bind\n"
    "                        dpdk also KIND:WHAT,ip=ADDR/PREFIX,port=N,..., KIND one of pci, "
    "af_packet,\n"
    "                        af_xdp, memif; net/net.h has the keys\n"
    "  --peer ADDRESS        prefill, udp: where decode listens; run finds that out itself\n"
    "  --name NAME           worker: what its peers and its router call it; its role by default\n"
    "  --wait-peer SECONDS   how long a worker waits for its first peer, 60 by default\n"
    "  --codec NAME          prefill: auto (default: what lands the last chunk soonest), or its "
    "name\n"
    "  --budget NAME         run: what codecs may do to the KV: exact (default), e8 (like fp8), e4 "
    "(int4)\n"
    "  --exact FIRST,LAST    run: tokens that a lossy codec leaves exact, 4,128 by default\n"
    "  --encoders N          prefill: threads that encode; by default the link's own does\n"
    "  --lease MS            decode: blocks come back after this much silence, 2000 by default\n"
    "  --fault SPEC          inject faults below the protocol: loss=0.05,reorder=0.05,seed=7\n"
    "  --trace FOLDER        what each chunk and packet did: prefill.jsonl, decode.jsonl and\n"
    "                        *.packets.jsonl there; perf/timeline.py puts them together\n"
    "  --control SOCK        worker: Unix socket for requests\n"
    "  --prefill-at SOCK, --decode-at SOCK   run: use running workers\n"
    "\n",
    "Resources\n"
    "  --cpu LIST            CPUs for the thread that moves packets, as 2,4-5; default: any\n"
    "  --busy-poll           that thread never sleeps: for a CPU that has nothing else to do\n"
    "  --device NAME         who computes: cpu (default), cuda, cuda:N. Where there is no such "
    "GPU, "
    "no driver or\n"
    "                        no cuBLAS, a sentence says so and the CPU computes\n"
    "  --kv-dtype NAME       K and V are kept and sent in bf16 (default) or fp8 (e4m3), which "
    "needs "
    "a GPU\n"
    "  --threads N           compute threads of each worker; default: cores / workers\n"
    "  --kv-tokens N         KV pool; default: the model's context\n"
    "  --prefix-cache-dir DIR   K and V of prompts' beginnings on disk, too: what an earlier "
    "process "
    "computed\n"
    "                        is read, not computed again. Who can read DIR can read the prompts\n"
    "  --prefix-cache-disk-gb N   its size, 10 by default; what was used longest ago goes first\n"
    "  --block-tokens N      tokens per KV block, 16 by default\n"
    "  --prefill-tokens N    tokens per prefill chunk\n"
    "\n"
    "Output\n"
    "  --json                run: one JSON object per request on stdout\n"
    "  --no-compare          run: skip the second pass that sends after prefill\n"
    "  --quiet               worker: errors only\n"
    "  --help, --version\n"
    "\n"
    "An option that would do nothing, for this command or --net, is refused.\n"
    "Exit: 0 done; 1 failed, with one sentence on stderr; 2 wrong usage; 128 + N ended by signal "
    "N.\n",
    NULL,
};

int kve_help_print(const char *const *texts)
{
    struct kve_output out;
    char why[KVE_WHY_BYTES];
    bool ok = true;

    kve_output_open(&out, STDOUT_FILENO);
    for (; *texts != NULL; ++texts)
        ok = ok && kve_output_add(&out, *texts, strlen(*texts)) == KVW_OK;
    ok = ok && kve_output_finish(&out, kve_now_ns() + 600 * KVE_S, NULL);
    if (!ok) {
        kve_output_why(&out, why);
        fprintf(stderr, "kvserve: %s\n", why);
    }
    kve_output_close(&out);
    return ok ? 0 : 1;
}
