// SPDX-License-Identifier: Apache-2.0
/*
 * plugin.cpp - libplugin_KVWIRE.so: a NIXL backend over a kvwire node's batches. DRAM, READ and
 * WRITE, notifications.
 *
 * threads  the node has its own; every function may come from any of the agent's
 * time     connect and prepXfer wait, at most CONNECT_S; nothing else does
 * $KVWIRE_NIXL_HOST is this side's address, 127.0.0.1 without it; $KVWIRE_TRANSPORT the transport
 */
#include "interface.h"

#include <arpa/inet.h>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "../node.h"

namespace
{

constexpr uint64_t SECOND = 1000000000, CONNECT_S = 10;
constexpr size_t NOTIFS_MAX = 1 << 20;

struct Memory final : nixlBackendMD {
    kvw_region_id region{}; // 0: a peer's
    Memory() : nixlBackendMD(true)
    {
    }
};

struct Request final : nixlBackendReqH {
    kvw_batch_id batch{};
};

nixl_status_t status_of(kvw_err err)
{
    switch (err) {
    case KVW_OK:
        return NIXL_SUCCESS;
    case KVW_E_INVALID:
        return NIXL_ERR_INVALID_PARAM;
    case KVW_E_NOTFOUND:
        return NIXL_ERR_NOT_FOUND;
    case KVW_E_MISMATCH:
        return NIXL_ERR_NOT_ALLOWED;
    case KVW_E_PEER_LOST:
        return NIXL_ERR_REMOTE_DISCONNECT;
    case KVW_E_CANCELED:
        return NIXL_ERR_CANCELED;
    case KVW_E_UNSUPPORTED:
        return NIXL_ERR_NOT_SUPPORTED;
    default:
        return NIXL_ERR_BACKEND;
    }
}

// A free UDP port of this address; 0: none.
uint16_t free_port(const char *host)
{
    sockaddr_in at{};
    socklen_t size = sizeof(at);
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);

    at.sin_family = AF_INET;
    if (fd < 0 || inet_pton(AF_INET, host, &at.sin_addr) != 1 ||
        bind(fd, reinterpret_cast<sockaddr *>(&at), size) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr *>(&at), &size) != 0)
        at.sin_port = 0;
    if (fd >= 0)
        close(fd);
    return ntohs(at.sin_port);
}

const char *env(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value != nullptr && value[0] != '\0' ? value : otherwise;
}

class Engine final : public nixlBackendEngine
{
    kvw_node *node = nullptr;
    mutable std::mutex lock; // of what follows
    std::map<std::string, kvw_peer_id> peers;
    mutable std::deque<std::pair<std::string, std::string>> notifs;

    // Events: notifications are kept; nobody asks for the others. Called often, so that a full
    // queue never holds the node up.
    void drain() const
    {
        std::lock_guard<std::mutex> held(lock);
        kvw_core_event ev{};

        for (ev.size = sizeof(ev); kvw_node_next_event(node, &ev); ev.size = sizeof(ev)) {
            const uint8_t name = ev.note_bytes > 0 ? ev.note[0] : 0;

            if (ev.kind != KVW_CEV_NOTIFY || 1u + name > ev.note_bytes ||
                notifs.size() >= NOTIFS_MAX)
                continue;
            const char *text = reinterpret_cast<const char *>(ev.note) + 1;

            notifs.emplace_back(std::string(text, name),
                                std::string(text + name, ev.note_bytes - 1 - name));
        }
    }

    // This agent's name and the message; empty: too long.
    std::string note_of(const std::string &message) const
    {
        if (localAgent.size() > 255 || 1 + localAgent.size() + message.size() > KVW_NOTE_MAX)
            return "";
        return std::string(1, static_cast<char>(localAgent.size())) + localAgent + message;
    }

    bool find(const std::string &agent, kvw_peer_id *peer) const
    {
        std::lock_guard<std::mutex> held(lock);
        const auto at = peers.find(agent);

        if (at != peers.end())
            *peer = at->second;
        return at != peers.end();
    }

    nixl_status_t make(const kvw_batch_args &args, kvw_batch_id *batch) const
    {
        const uint64_t until = kvw_now_ns() + CONNECT_S * SECOND;

        for (;;) { // until the peer is up and has told its regions
            const kvw_err err = kvw_node_batch_make(node, &args, batch, nullptr, 0);
            kvw_peer_info info{};

            drain();
            info.size = sizeof(info);
            if (err == KVW_OK)
                return NIXL_SUCCESS;
            if ((err != KVW_E_AGAIN && err != KVW_E_NOTFOUND && err != KVW_E_PEER_LOST) ||
                kvw_now_ns() >= until || kvw_node_peer_info(node, args.peer, &info) != KVW_OK ||
                info.state == KVW_PEER_DOWN)
                return status_of(err);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

  public:
    explicit Engine(const nixlBackendInitParams *p) : nixlBackendEngine(p)
    {
        const char *host = env("KVWIRE_NIXL_HOST", "127.0.0.1");

        for (int i = 0; i < 16 && node == nullptr; ++i) {
            const std::string local = std::string(host) + ":" + std::to_string(free_port(host));
            kvw_node_config cfg{};

            cfg.size = sizeof(cfg);
            cfg.name = localAgent.c_str();
            cfg.transport = env("KVWIRE_TRANSPORT", "udp");
            cfg.local = local.c_str();
            cfg.listen = 1;
            if (kvw_node_open(&node, &cfg, nullptr, 0) != KVW_OK)
                node = nullptr;
        }
        initErr = node == nullptr;
    }
    ~Engine() override
    {
        kvw_node_close(node);
    }

    bool supportsRemote() const override
    {
        return true;
    }
    bool supportsLocal() const override
    {
        return false;
    }
    bool supportsNotif() const override
    {
        return true;
    }
    nixl_mem_list_t getSupportedMems() const override
    {
        return {DRAM_SEG};
    }

    status registerMem(const nixlBlobDesc &mem, const nixl_mem_t &type,
                       nixlBackendMD *&out) override
    {
        kvw_mem m{};
        kvw_region_args args{};
        auto *made = new Memory;

        m.base = reinterpret_cast<void *>(mem.addr);
        m.bytes = mem.len;
        m.kind = KVW_MEM_HOST;
        m.dmabuf_fd = -1;
        args.size = sizeof(args);
        args.rights = KVW_REGION_READ | KVW_REGION_WRITE;
        args.mem = &m;
        args.mem_bytes = sizeof(m);
        const kvw_err err = type == DRAM_SEG
                                ? kvw_node_region_add(node, &args, &made->region, nullptr, 0)
                                : KVW_E_UNSUPPORTED;
        if (err != KVW_OK)
            delete made;
        else
            out = made;
        return status_of(err);
    }
    status deregisterMem(nixlBackendMD *md) override
    {
        auto *memory = static_cast<Memory *>(md);
        const kvw_err err = kvw_node_region_remove(node, memory->region);

        delete memory;
        return status_of(err);
    }
    status getPublicData(const nixlBackendMD *, std::string &to) const override
    {
        to = "kvwire"; // addresses say everything; a peer's regions are told by the node
        return NIXL_SUCCESS;
    }
    status loadRemoteMD(const nixlBlobDesc &, const nixl_mem_t &, const std::string &,
                        nixlBackendMD *&out) override
    {
        out = new Memory;
        return NIXL_SUCCESS;
    }
    status loadLocalMD(nixlBackendMD *in, nixlBackendMD *&out) override
    {
        out = in;
        return NIXL_SUCCESS;
    }
    status unloadMD(nixlBackendMD *md) override
    {
        auto *memory = static_cast<Memory *>(md);

        if (memory->region.value == 0)
            delete memory;
        return NIXL_SUCCESS;
    }

    status getConnInfo(std::string &to) const override
    {
        char blob[1024];
        uint32_t bytes = sizeof(blob);
        const kvw_err err = kvw_node_blob(node, blob, &bytes);

        if (err == KVW_OK)
            to.assign(blob, bytes);
        return status_of(err);
    }
    status loadRemoteConnInfo(const std::string &agent, const std::string &info) override
    {
        kvw_peer_id peer{}, before{};
        const kvw_err err =
            kvw_node_peer_blob(node, info.data(), static_cast<uint32_t>(info.size()), &peer);

        if (err != KVW_OK)
            return err == KVW_E_FORMAT ? NIXL_ERR_MISMATCH : status_of(err);
        if (find(agent, &before))
            (void)!kvw_node_peer_drop(node, before);
        std::lock_guard<std::mutex> held(lock);

        peers[agent] = peer;
        return NIXL_SUCCESS;
    }
    status connect(const std::string &agent) override
    {
        const uint64_t until = kvw_now_ns() + CONNECT_S * SECOND;
        kvw_peer_info info{};
        kvw_peer_id peer;

        if (agent == localAgent)
            return NIXL_SUCCESS;
        if (!find(agent, &peer))
            return NIXL_ERR_NOT_FOUND;
        while (info.size = sizeof(info), kvw_node_peer_info(node, peer, &info) == KVW_OK) {
            if (info.state == KVW_PEER_UP)
                return NIXL_SUCCESS;
            if (kvw_now_ns() >= until)
                return NIXL_ERR_REMOTE_DISCONNECT;
            drain();
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return NIXL_ERR_NOT_FOUND;
    }
    status disconnect(const std::string &agent) override
    {
        kvw_peer_id peer;

        if (find(agent, &peer)) {
            (void)!kvw_node_peer_drop(node, peer);
            std::lock_guard<std::mutex> held(lock);

            peers.erase(agent);
        }
        return NIXL_SUCCESS;
    }

    status prepXfer(const nixl_xfer_op_t &op, const nixl_meta_dlist_t &local,
                    const nixl_meta_dlist_t &remote, const std::string &agent,
                    nixlBackendReqH *&handle, const nixl_opt_b_args_t *) const override
    {
        const auto &here = local.all(), &there = remote.all();
        std::vector<kvw_batch_piece> pieces(here.size());
        kvw_batch_args args{};
        auto *made = new Request;
        nixl_status_t done = NIXL_ERR_INVALID_PARAM;
        bool equal = here.size() == there.size() && here.size() <= KVW_PIECES_MAX;

        for (size_t i = 0; equal && i < pieces.size(); ++i) {
            pieces[i] = {here[i].addr, there[i].addr, here[i].len};
            equal = here[i].len == there[i].len;
        }
        args.size = sizeof(args);
        args.op = op == NIXL_READ ? KVW_BATCH_READ : KVW_BATCH_WRITE;
        args.piece_count = static_cast<uint32_t>(pieces.size());
        args.pieces = pieces.data();
        args.piece_bytes = sizeof(pieces[0]);
        if (equal)
            done = find(agent, &args.peer) ? make(args, &made->batch) : NIXL_ERR_NOT_FOUND;
        if (done != NIXL_SUCCESS)
            delete made;
        else
            handle = made;
        return done;
    }
    status postXfer(const nixl_xfer_op_t &, const nixl_meta_dlist_t &, const nixl_meta_dlist_t &,
                    const std::string &, nixlBackendReqH *&handle,
                    const nixl_opt_b_args_t *opt) const override
    {
        const auto *request = static_cast<Request *>(handle);
        kvw_post_args args{};
        std::string note;

        args.size = sizeof(args);
        args.quiet = 1;
        if (opt != nullptr && opt->hasNotif) {
            note = note_of(opt->notifMsg);
            if (note.empty())
                return NIXL_ERR_INVALID_PARAM;
            args.note = note.data();
            args.note_bytes = static_cast<uint32_t>(note.size());
        }
        const kvw_err err = kvw_node_batch_post(node, request->batch, &args, nullptr, 0);

        if (err == KVW_E_AGAIN)
            return NIXL_ERR_REPOST_ACTIVE;
        return err == KVW_OK ? NIXL_IN_PROG : status_of(err);
    }
    status checkXfer(nixlBackendReqH *handle) const override
    {
        kvw_batch_status s{};

        drain();
        s.size = sizeof(s);
        const kvw_err err = kvw_node_batch_status(node, static_cast<Request *>(handle)->batch, &s);

        if (err != KVW_OK)
            return status_of(err);
        if (s.state == KVW_BATCH_IDLE)
            return NIXL_ERR_NOT_POSTED;
        return s.state == KVW_BATCH_POSTED ? NIXL_IN_PROG : status_of(static_cast<kvw_err>(s.err));
    }
    status releaseReqH(nixlBackendReqH *handle) const override
    {
        auto *request = static_cast<Request *>(handle);

        (void)!kvw_node_batch_release(node, request->batch);
        delete request;
        return NIXL_SUCCESS;
    }

    status getNotifs(notif_list_t &to) override
    {
        drain();
        std::lock_guard<std::mutex> held(lock);

        to.insert(to.end(), notifs.begin(), notifs.end());
        notifs.clear();
        return NIXL_SUCCESS;
    }
    status genNotif(const std::string &agent, const std::string &message) const override
    {
        const std::string note = note_of(message);
        kvw_peer_id peer;

        if (note.empty())
            return NIXL_ERR_INVALID_PARAM;
        if (!find(agent, &peer))
            return NIXL_ERR_NOT_FOUND;
        return status_of(
            kvw_node_notify(node, peer, note.data(), static_cast<uint32_t>(note.size())));
    }
};

nixlBackendPlugin plugin = {
    1,
    [](const nixlBackendInitParams *p) -> nixlBackendEngine * { return new Engine(p); },
    [](nixlBackendEngine *e) { delete e; },
    [] { return "KVWIRE"; },
    [] { return kvw_version(); },
    [] { return nixl_b_params_t(); },
    [] { return nixl_mem_list_t{DRAM_SEG}; },
};

} // namespace

extern "C" __attribute__((visibility("default"))) nixlBackendPlugin *nixl_plugin_init()
{
    return &plugin;
}
extern "C" __attribute__((visibility("default"))) void nixl_plugin_fini()
{
}
