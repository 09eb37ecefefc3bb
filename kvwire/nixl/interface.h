/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interface.h - what a NIXL agent and a backend plugin of api_version 1 say to each other, as far
 * as plugin.cpp needs it. NIXL's wheels ship no headers; these declarations are ours, and only
 * their names, order and layout are NIXL's: they are its C++ ABI. Seen with 1.4.0 and 1.5.1
 * (libstdc++, C++20); the load test against the wheel is the judge.
 *
 * What must not change: the order of virtual functions, the order and types of data members, the
 * numbers of the enums.
 */
#ifndef KVW_NIXL_INTERFACE_H
#define KVW_NIXL_INTERFACE_H

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

enum nixl_mem_t { DRAM_SEG, VRAM_SEG, BLK_SEG, OBJ_SEG, FILE_SEG };
enum nixl_xfer_op_t { NIXL_READ, NIXL_WRITE };
enum nixl_status_t {
    NIXL_IN_PROG = 1,
    NIXL_SUCCESS = 0,
    NIXL_ERR_NOT_POSTED = -1,
    NIXL_ERR_INVALID_PARAM = -2,
    NIXL_ERR_BACKEND = -3,
    NIXL_ERR_NOT_FOUND = -4,
    NIXL_ERR_MISMATCH = -5,
    NIXL_ERR_NOT_ALLOWED = -6,
    NIXL_ERR_REPOST_ACTIVE = -7,
    NIXL_ERR_UNKNOWN = -8,
    NIXL_ERR_NOT_SUPPORTED = -9,
    NIXL_ERR_REMOTE_DISCONNECT = -10,
    NIXL_ERR_CANCELED = -11,
};
enum class nixl_cost_t { ANALYTICAL_BACKEND };
enum class nixl_thread_sync_t { NONE, STRICT, RW };

using nixl_mem_list_t = std::vector<nixl_mem_t>;
using nixl_b_params_t = std::unordered_map<std::string, std::string>;
using notif_list_t = std::vector<std::pair<std::string, std::string>>;
using nixl_query_resp_t = std::optional<nixl_b_params_t>;

class nixlBackendMD
{
  protected:
    bool isPrivateMD;

  public:
    explicit nixlBackendMD(bool isPrivate) : isPrivateMD(isPrivate)
    {
    }
    virtual ~nixlBackendMD() = default;
};

class nixlBackendReqH
{
  public:
    virtual ~nixlBackendReqH() = default;
};

struct nixlBasicDesc {
    uintptr_t addr;
    size_t len;
    uint64_t devId;
};
struct nixlMetaDesc : nixlBasicDesc {
    nixlBackendMD *metadataP;
};
struct nixlBlobDesc : nixlBasicDesc {
    std::string metaInfo;
};

/* The agent makes lists; a plugin reads them, and calls none of their virtual functions. */
template <class T> class nixlDescList
{
  protected:
    nixl_mem_t type;
    std::vector<T> descs;

  public:
    virtual ~nixlDescList() = default;
    const std::vector<T> &all() const
    {
        return descs;
    }
};
struct nixlRemoteMetaDesc;
using nixl_meta_dlist_t = nixlDescList<nixlMetaDesc>;
using nixl_remote_meta_dlist_t = nixlDescList<nixlRemoteMetaDesc>;
using nixl_reg_dlist_t = nixlDescList<nixlBlobDesc>;

struct nixlBackendOptionalArgs {
    std::string notifMsg;
    bool hasNotif;
    std::string customParam;
};
using nixl_opt_b_args_t = nixlBackendOptionalArgs;
struct nixlAgentOptionalArgs;

struct nixlBackendInitParams {
    std::string localAgent;
    std::string type;
    nixl_b_params_t *customParams;
    bool enableProgTh;
    uint64_t pthrDelay;
    nixl_thread_sync_t syncMode;
    bool enableTelemetry;
};

class nixlBackendEngine
{
    std::string backendType;
    nixl_b_params_t customParams;
    std::vector<char> telemetryEvents; /* the agent's; of another type, and stays empty here */
    std::mutex telemetryMutex;

  protected:
    bool initErr = false;
    const std::string localAgent;
    const bool enableTelemetry;

    using status = nixl_status_t;
    using text = const std::string &;
    using dlist = const nixl_meta_dlist_t &;

  public:
    explicit nixlBackendEngine(const nixlBackendInitParams *p)
        : backendType(p->type), customParams(*p->customParams), localAgent(p->localAgent),
          enableTelemetry(p->enableTelemetry)
    {
    }
    nixlBackendEngine(const nixlBackendEngine &) = delete;
    nixlBackendEngine &operator=(const nixlBackendEngine &) = delete;

    virtual ~nixlBackendEngine() = default;
    virtual bool supportsRemote() const = 0;
    virtual bool supportsLocal() const = 0;
    virtual bool supportsNotif() const = 0;
    virtual nixl_mem_list_t getSupportedMems() const = 0;
    virtual status registerMem(const nixlBlobDesc &, const nixl_mem_t &, nixlBackendMD *&) = 0;
    virtual status deregisterMem(nixlBackendMD *) = 0;
    virtual status connect(text) = 0;
    virtual status disconnect(text) = 0;
    virtual status unloadMD(nixlBackendMD *) = 0;
    virtual status prepXfer(const nixl_xfer_op_t &, dlist, dlist, text, nixlBackendReqH *&,
                            const nixl_opt_b_args_t *) const = 0;
    virtual status postXfer(const nixl_xfer_op_t &, dlist, dlist, text, nixlBackendReqH *&,
                            const nixl_opt_b_args_t *) const = 0;
    virtual status checkXfer(nixlBackendReqH *) const = 0;
    virtual status releaseReqH(nixlBackendReqH *) const = 0;
    virtual status prepMemView(const nixl_remote_meta_dlist_t &, void *&,
                               const nixl_opt_b_args_t *) const
    {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual status prepMemView(dlist, void *&, const nixl_opt_b_args_t *) const
    {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual void releaseMemView(void *) const
    {
    }
    virtual status getPublicData(const nixlBackendMD *, std::string &) const = 0;
    virtual status getConnInfo(std::string &) const = 0;
    virtual status loadRemoteConnInfo(text, text) = 0;
    virtual status loadRemoteMD(const nixlBlobDesc &, const nixl_mem_t &, text,
                                nixlBackendMD *&) = 0;
    virtual status loadLocalMD(nixlBackendMD *, nixlBackendMD *&) = 0;
    virtual status getNotifs(notif_list_t &) = 0;
    virtual status genNotif(text, text) const = 0;
    virtual status queryMem(const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &) const
    {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    virtual status estimateXferCost(const nixl_xfer_op_t &, dlist, dlist, text,
                                    nixlBackendReqH *const &, std::chrono::microseconds &,
                                    std::chrono::microseconds &, nixl_cost_t &,
                                    const nixlAgentOptionalArgs *) const
    {
        return NIXL_ERR_NOT_SUPPORTED;
    }
};

struct nixlBackendPlugin {
    int api_version;
    nixlBackendEngine *(*create_engine)(const nixlBackendInitParams *);
    void (*destroy_engine)(nixlBackendEngine *);
    const char *(*get_plugin_name)();
    const char *(*get_plugin_version)();
    nixl_b_params_t (*get_backend_options)();
    nixl_mem_list_t (*get_backend_mems)();
};

#endif
