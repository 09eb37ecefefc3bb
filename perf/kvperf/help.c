/* SPDX-License-Identifier: Apache-2.0 */
/* help.c - what --help says. */
#include "options.h"

static const char general[] =
    "kvperf - how long the hand-over of a KV cache shows, between two hosts or on this one\n"
    "\n"
    "  kvperf kv [HOST] [options]        hand over one prompt's KV, layer by layer; without HOST\n"
    "                                    both ends run here\n"
    "  kvperf bw [HOST] [options]        all at once, as fast as it goes\n"
    "  kvperf lat [HOST] [options]       one block, again and again\n"
    "  kvperf sweep [HOST] [options]     kv over lengths, prompts at once and orders of blocks\n"
    "  kvperf find [HOST] --max-exposed-ms X   the longest prompt of which no more than that "
    "shows\n"
    "  kvperf batch [HOST] [options]     READs and WRITEs of many pieces, beside one piece of the "
    "same bytes\n"
    "  kvperf replay [HOST] --trace FILE  requests of a trace at its times, come what may\n"
    "  kvperf server [options]           the other end, for clients one after another\n"
    "  kvperf client HOST MODE [options] the same as kvperf MODE HOST\n"
    "\n"
    "  kvperf plan [options]             without a network: bytes, and from which rate on they "
    "hide\n"
    "  kvperf codec [options]            ratio and pace of each codec on one core of this machine\n"
    "  kvperf doctor [HOST]              what of this machine makes a hand-over slow, and what to "
    "do;\n"
    "                                    with HOST of both, and of the way between them\n"
    "  kvperf report A.json [B.json]     results as a page with pictures; two beside each other\n"
    "\n"
    "Try:\n"
    "  kvperf kv                                    a result in a few seconds, nothing to set up\n"
    "  kvperf server                                on the decode host, then on the prefill host:\n"
    "  kvperf kv HOST --model llama-3.1-8b --tokens 8k --codec raw,l0,e8\n"
    "\n"
    "kvperf CMD --help has the options of each. Exit: 0 done; 1 failed; 2 wrong usage; 3 other\n"
    "bytes arrived than were sent; 4 a threshold was missed; 5 no server, another version, or it\n"
    "was lost on the way; 130 Ctrl-C, after a summary.\n";

static const char server[] =
    "kvperf server - the end that receives. All that a test is made of is said by the client.\n"
    "\n"
    "  -p, --port N       TCP port for control, UDP ports from the same number on; 7471\n"
    "  -B, --bind ADDR    listen on this address only\n"
    "  -1, --one-off      serve one client, then exit\n"
    "  --net NAME         dpdk or verbs instead of udp\n"
    "  --link SPEC        dpdk, verbs: this side's device, as af_packet:eth0,ip=10.0.0.2/24 or\n"
    "                     rxe0/1 (net/net.h has the syntax)\n"
    "\n"
    "As kvperf -s, too.\n";

static const char kv[] =
    "kvperf kv [HOST] - a prompt's KV cache from prefill to decode. bw, lat, sweep, codec and "
    "plan\n"
    "take the same options. A clock stands for the prefill: each layer becomes ready when a GPU "
    "of\n"
    "the stated speed would have computed it, and is sent at once. Beside it the same bytes are\n"
    "sent in one go when the prefill is over.\n"
    "\n"
    "What is moved\n"
    "  --model NAME          a preset, llama-3.1-8b if none is named; --model list shows them\n"
    "  --geometry FILE       another model: README.md has an example\n"
    "  --dtype T             bf16 (default), fp8, nvfp4\n"
    "  --tokens N            of the prompt, 2048; 8k is 8192. sweep: N,M,..., 128 .. 128k; lat: a "
    "block\n"
    "  -P, --parallel N      so many prompts at once, 1 .. 64. sweep: N,M,..., 1,8,64\n"
    "  --tp P[:D]            kv, bw, lat: the prefill's KV is on P shards, the decode's on D (P), "
    "1\n"
    "                        to 8: a node and a range of heads each. 1\n"
    "  --max-memory GB       sweep, find: leave out what needs more on a side, 1\n"
    "  --prefill-rate N      tokens a second; the preset's H100 otherwise. 0: no prefill, all "
    "layers\n"
    "                        are ready at once\n"
    "  --prefill-chunk N     prefill so many tokens through all layers, then the next; 0: all\n"
    "  --block-tokens N[,M]  tokens of a block here, and there if they differ; 16\n"
    "  --order O             random (default): blocks lie in random order; contiguous\n"
    "  --layout L            layer (default): a tensor for each layer's K and V; head: a head's\n"
    "                        tokens side by side; block: all layers of a block side by side\n"
    "  --payload P           recorded (default): values distributed as in real KV; random;\n"
    "                        file:PATH (then nothing is compared at the receiver)\n"
    "  --seed N              of values and orders, 1\n"
    "\n"
    "How it travels\n"
    "  --codec A,B,...       auto (default), raw, l0, l8, e8, e4, lz4, zstd ...: a row each\n"
    "  --budget B            what auto may do to values: exact (default), e8, e4\n"
    "  --encoders N          threads that encode, 0: the node's own\n"
    "  --net NAME            udp (default), dpdk, verbs\n"
    "  --link SPEC           dpdk, verbs: this side's device; --peer ADDR: the server's address "
    "there\n"
    "  -p, --port N          the server's, 7471;  -B, --bind ADDR  this side's address\n"
    "  --busy-poll           a core for the node's thread, which never sleeps\n"
    "  --fault SPEC          inject faults: loss=0.01,seed=7\n"
    "\n"
    "How it is measured\n"
    "  -n, --reps N          of each row, in turns: 5; sweep 3, find 100, lat 200\n"
    "  -O, --omit N          rounds before that which don't count, 1\n"
    "  --timeout S           of one transfer, 120\n"
    "  --no-verify           don't compare what arrived\n"
    "  --flip-byte           spoil one byte after it arrived: this run must fail\n"
    "  --beside A[,B]        kv, bw: memcpy, iperf3 (if installed on both hosts) in turns with the "
    "rows\n"
    "\n"
    "What comes out\n"
    "  -J, --json            one JSON object instead of the table (schema.json describes it)\n"
    "  -o, --output FILE     that object into a file, beside the table\n"
    "  -i, --interval S      a line each S seconds while it runs\n"
    "  --json-stream         JSON lines: an object for each interval, the result at the end\n"
    "  --csv FILE            the rows, for a spreadsheet\n"
    "  -T, --title TEXT      into both\n"
    "  --no-gantt            without the picture of the layers\n"
    "  --max-exposed-ms X    exit 4 if a streamed row's median is above\n"
    "  --min-percent-of-floor X  exit 4 if it is further from the physical floor: floor over\n"
    "                        exposed time, in per cent\n";

static const char batch[] =
    "kvperf batch [HOST] - READs and WRITEs of many pieces between two hosts' memory, as users of\n"
    "NIXL's and Mooncake's interfaces post them. Pieces lie in random order on both sides; beside\n"
    "them, in turns, one piece of the same bytes.\n"
    "\n"
    "  --piece B[,B,...]     bytes of a piece, 4096; 64k is 65536\n"
    "  --pieces N            of a batch, 1024\n"
    "  --depth N             batches in flight, each with memory of its own, 1\n"
    "  --posts N             of a round, 8\n"
    "  --op O                both (default), write, read\n"
    "  -n, --reps N          rounds of each row, in turns: 5;  -O, --omit N  before that, 1\n"
    "  --timeout S           of one post, 120\n"
    "  --no-verify           don't compare what arrived;  --flip-byte  this run must fail\n"
    "  --net, --link, --peer, -p, -B, --busy-poll, --fault, --seed   as of kvperf kv\n"
    "  -J, -o, -i, --json-stream, --csv, -T                          as of kvperf kv\n";

static const char replay[] =
    "kvperf replay [HOST] --trace FILE - the requests of a trace, each at its time, however many "
    "are\n"
    "still under way. Times count from when a request was to begin; how late kvperf itself began "
    "it\n"
    "is said apart. FILE: JSON lines with timestamp (ms) and input_length, as Mooncake's.\n"
    "\n"
    "  --speed X             times of the trace over X, 1\n"
    "  --scale X             lengths of the trace times X, 1\n"
    "  --tokens N            cut longer ones to N\n"
    "  --duration S          so much of it, all\n"
    "  --spread              requests of one timestamp are spread until the next\n"
    "  -P, --parallel N      blocks for so many at once, 1 .. 64, 16; one more waits\n"
    "  --max-memory GB       refuse what needs more on a side, 1\n"
    "  --max-lag-ms X        exit 4 if kvperf itself was later than that in 1 of 100, 20; 0: none\n"
    "  --max-exposed-ms X    exit 4 if the median is above\n"
    "  --model ... --codec (one) ... --net ... --timeout ...   as of kvperf kv\n"
    "  -J, -o, -i, --json-stream, -T as of kvperf kv; --csv FILE has a line a request\n";

const char *kvp_help(enum kvp_command command)
{
    switch (command) {
    case KVP_NONE:
        return general;
    case KVP_SERVER:
        return server;
    case KVP_BATCH:
        return batch;
    case KVP_REPLAY:
        return replay;
    default:
        return kv;
    }
}
