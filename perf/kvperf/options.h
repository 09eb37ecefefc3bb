/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - what the user asked for: read once, then const.
 *
 * threads  plain data      memory  texts point into argv      time  none
 */
#ifndef KVP_OPTIONS_H
#define KVP_OPTIONS_H

#include "cache.h"

#define KVP_PORT       7471 /* TCP for control; UDP from the same number on */
#define KVP_CODECS_MAX 6u
#define KVP_LIST_MAX   12u

/* Exit statuses; README.md has the same list. */
enum kvp_exit {
    KVP_EXIT_OK = 0,
    KVP_EXIT_FAILED = 1,       /* one sentence on stderr says what */
    KVP_EXIT_USAGE = 2,        /* the command line */
    KVP_EXIT_DATA = 3,         /* other bytes arrived than were sent */
    KVP_EXIT_THRESHOLD = 4,    /* --max-exposed-ms, --min-percent-of-floor */
    KVP_EXIT_SERVER = 5,       /* away, of another version, or lost on the way */
    KVP_EXIT_INTERRUPTED = 130 /* Ctrl-C, after the summary */
};

enum kvp_command {
    KVP_NONE,
    KVP_SERVER,
    KVP_KV,
    KVP_BW,
    KVP_LAT,
    KVP_SWEEP,
    KVP_FIND,
    KVP_CODEC,
    KVP_PLAN,
    KVP_BATCH,
    KVP_REPLAY,
};

struct kvp_codec {
    const char *name;
    uint32_t id;     /* kvw_codec_id, 0: auto */
    uint32_t budget; /* kvw_budget that it needs */
};

struct kvp_options {
    enum kvp_command command;
    int argc; /* as typed, for the result and for the server's screen */
    char **argv;

    /* where */
    const char *host; /* NULL: both ends here */
    const char *bind;
    uint16_t port;
    bool one_off;
    const char *net, *link; /* link NULL: what suits net */
    const char *peer;       /* of the data path, where that isn't the server's own address */
    const char *fault;

    /* what */
    struct kvp_geometry geometry;
    uint32_t tokens, parallel, chunk_tokens;
    uint32_t tp, tp_there;                          /* shards of this side, and of the server's */
    uint32_t token_list[KVP_LIST_MAX], token_count; /* sweep: all that were named */
    uint32_t parallel_list[KVP_LIST_MAX], parallel_count;
    double memory_max; /* sweep, find: bytes of KV on each side */
    double find_ms;    /* find: the bound, which is no threshold there */
    uint32_t block_tokens, block_tokens_there;
    enum kvp_layout layout;
    bool shuffled;
    struct kvp_codec codecs[KVP_CODECS_MAX];
    uint32_t codec_count;
    uint32_t budget; /* for auto */
    uint32_t encoders;
    bool busy_poll;
    enum kvp_payload_kind payload;
    const char *payload_path;
    uint64_t seed;
    bool verify, flip;

    const char *beside[2]; /* kv, bw: yardsticks by name */
    uint32_t beside_count;

    /* batch */
    uint32_t piece_list[KVP_LIST_MAX], piece_count; /* bytes of a piece: all that were named */
    uint32_t pieces, depth, posts; /* pieces of a batch, batches in flight, posts of a round */
    bool read, write;

    /* replay */
    const char *trace;
    double speed, scale, duration_s; /* of the times, of the lengths; duration 0: all of it */
    bool spread;
    double max_lag_ms; /* 0: none */

    /* how often, and what comes out */
    uint32_t reps, omit;
    uint64_t timeout_ns;
    double interval_s; /* 0: none */
    bool json, json_stream, gantt;
    const char *output; /* a file for the JSON beside the table */
    const char *csv;    /* a file for the rows */
    const char *title;
    double max_exposed_ms, min_percent_of_floor; /* < 0: none */
};

/* Read the command line. False: *status is the exit status, and what had to be said was. */
bool kvp_options_parse(struct kvp_options *o, int argc, char **argv, int *status);
/* A codec by name; false: no such one in this library. */
bool kvp_codec_by_name(struct kvp_codec *c, const char *name);
const char *kvp_codec_name(uint32_t id);
/* The texts of --help. */
const char *kvp_help(enum kvp_command command);

#endif
