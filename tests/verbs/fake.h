/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h - a pretended RDMA fabric in one process: link fake.c and every ibv_ call of the transport
 * comes here. Two devices, fake0 (127.0.0.1) and fake1 (127.0.0.2), one port each. Work requests
 * move when a completion queue is polled, queue pairs in random order, so that completions of
 * different queue pairs overtake each other; faults strike as told.
 *
 * threads  one
 * memory   every object is counted: vf.live is 0 when all were given back
 * time     none
 */
#ifndef T_VERBS_FAKE_H
#define T_VERBS_FAKE_H

#include <infiniband/verbs.h>
#include <stdbool.h>

#define VF_DEVICES 2

/* What rdma_cm (fake_cm.c) meets. */
enum vf_cm {
    VF_CM_GOOD = 0,
    VF_CM_NO_DEVICE, /* no address is known to it */
    VF_CM_NO_ROUTE,
    VF_CM_NO_NEIGHBOUR,
    VF_CM_OTHER_DEVICE, /* routes lead over the other one */
    VF_CM_NO_PATH,
    VF_CM_NOBODY, /* listens */
    VF_CM_UNREACHABLE,
    VF_CM_WRONG_TICKET,
    VF_CM_WRONG_MAGIC,
    VF_CM_WRONG_VERSION,
    VF_CM_WRONG_PATH, /* a number that no connection has */
    VF_CM_ARRIVES_ELSEWHERE,
    VF_CM_SILENT_ADDRESS, /* no event comes after this step */
    VF_CM_SILENT_ROUTE,
    VF_CM_SILENT_CONNECT,
};

struct vf {
    /* Objects that exist, and calls that may fail: the fail_at-th does (0: none). */
    int live, steps, fail_at;
    int qps, mrs, mws;   /* of live */
    int dmabufs;         /* mapped */
    bool no_windows;     /* the devices have no memory windows */
    uint32_t bind_65536; /* of 65536: a bind is not carried out and ends its queue pair */
    uint64_t binds;
    uint64_t random;
    uint32_t devices; /* that ibv_get_device_list() knows */
    bool port_down[VF_DEVICES];
    bool gone[VF_DEVICES];   /* removed: nothing moves, every call fails */
    bool cut[VF_DEVICES];    /* the cable: work requests fail with RETRY_EXC */
    bool no_way[VF_DEVICES]; /* its interface is down, as the routing table knows */
    bool stuck;              /* nothing moves */
    uint32_t burst;          /* work requests moved at each poll, at most; 0: 64 */
    enum ibv_mtu mtu[VF_DEVICES];
    uint32_t inline_max;
    /* Of 65536: a work request is not carried out and ends its queue pair with a random status; is
     * carried out and ends it all the same (the acknowledgement was lost). */
    uint32_t fail_65536, ack_lost_65536;
    uint32_t echo_65536; /* a write that was carried out is followed by itself without its bytes */
    enum ibv_wc_status status; /* of the former; IBV_WC_SUCCESS: any of those that networks make */
    /* Memory in [vram, vram + vram_bytes) is a GPU's: 0 or the errno of registering it. Where vram
     * is NULL a dma-buf is mapped as it is, and the devices reach it by that mapping alone. */
    uint8_t *vram;
    uint64_t vram_bytes;
    int dmabuf_error, peermem_error, register_error;
    int dmabuf_refused; /* a descriptor that no device takes; 0: none */
    uint64_t writes, sends, faults;
    uint64_t events; /* of completion queues, on their channels */
    enum vf_cm cm;
    int cm_joins;       /* requests that were accepted */
    int cm_establishes; /* accepts that were answered */
    int cm_ids;         /* identifiers that exist */
    int cm_nowhere; /* its messages that had no way out; after the first, no request is answered, as
                       on rxe of Linux 6.1 */
    enum ibv_mtu path_mtu;      /* the greatest that a queue pair got */
    uint8_t timeout, retry_cnt; /* those of the last */
};

extern struct vf vf;

/* As at the start of the process; objects that live stay. */
void vf_reset(uint64_t seed);
void vf_async(uint32_t device, enum ibv_event_type type);
/* rdma_cm tells every identifier of the device that it goes. */
void vf_cm_remove(uint32_t device);
/* For fake_cm.c: fake.c's count of calls that may fail, and of objects. */
bool vf_fails(uint32_t device, int error);
void *vf_made(size_t bytes);
void vf_unmade(void *p);
struct ibv_device *vf_device(uint32_t n);
uint32_t vf_device_of(const struct ibv_context *c);
/* Memory windows (fake_mw.c): what fake.c asks of them, and they of it. */
void vf_window_ops(struct ibv_context *c);
enum ibv_wc_status vf_bind(const struct ibv_send_wr *wr);
uint8_t *vf_window(struct ibv_pd *pd, uint64_t address, uint32_t rkey, uint64_t bytes);
int vf_windows_of(const struct ibv_mr *mr);
uint8_t *vf_bindable(const struct ibv_mr *mr, uint64_t address, uint64_t length);
uint32_t vf_key(void);
/* What a device sees of a dma-buf from `offset` on; NULL: it can't be imported, errno says why. */
uint8_t *vf_dmabuf(int fd, uint64_t offset, size_t length);
void vf_dmabuf_gone(const void *host);
/* The device leaves: an event, then silence. */
void vf_remove(uint32_t device);
uint32_t vf_random(void);
/* What would become of a wicked peer's write: bytes to address with rkey, to whichever end's queue
 * pair of the device lets it in. */
enum ibv_wc_status vf_write_raw(uint32_t device, uint64_t address, uint32_t rkey, uint32_t bytes);
/* The key of the device's window that is bound at address; 0: none is. */
uint32_t vf_window_key(uint32_t device, uint64_t address);

#endif
