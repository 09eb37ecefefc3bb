# SPDX-License-Identifier: Apache-2.0
# pci.sh - sourced inside guests: PCI devices and the drivers they are bound to.

driver_of() { # ADDRESS
    basename "$(readlink -f "/sys/bus/pci/devices/$1/driver")"
}

unbind() { # ADDRESS
    local dev=/sys/bus/pci/devices/$1
    [ ! -e "$dev/driver" ] || echo "$1" >"$dev/driver/unbind"
}

bind() { # ADDRESS DRIVER
    echo "$2" >"/sys/bus/pci/devices/$1/driver_override"
    unbind "$1"
    echo "$1" >/sys/bus/pci/drivers_probe
    [ "$(driver_of "$1")" = "$2" ]
}
