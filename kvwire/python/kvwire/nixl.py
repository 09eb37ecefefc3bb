# SPDX-License-Identifier: Apache-2.0
"""python -m kvwire.nixl: the folder of libplugin_KVWIRE.so, for $NIXL_PLUGIN_DIR. With it NIXL's agents know a backend
"KVWIRE": vLLM's NixlConnector takes it by "kv_connector_extra_config": {"backends": ["KVWIRE"]}.

$NIXL_PLUGIN_DIR replaces NIXL's own folder, so its other backends (UCX ...) are gone meanwhile: to have both, link the plugin
into NIXL's folder instead. $KVWIRE_NIXL_HOST is the address under which peers reach this side, 127.0.0.1 without it."""

from __future__ import annotations

import os
import sys


def folder() -> str:
    """Where the plugin lies. FileNotFoundError: this package was built without a C++ compiler."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "nixl")
    if not os.path.exists(os.path.join(path, "libplugin_KVWIRE.so")):
        raise FileNotFoundError("no libplugin_KVWIRE.so in %s: the package was built without a C++ compiler" % path)
    return path


if __name__ == "__main__":
    try:
        print(folder())
    except FileNotFoundError as e:
        sys.exit("kvwire.nixl: %s" % e)
