// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands of the ethtool ioctl that switch an offload (linux/ethtool.h).
const (
	getTXChecksum = 0x16
	setTXChecksum = 0x17
)

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// ethtool makes the ioctl for an interface and returns the value.
func ethtool(name string, value ethtoolValue) (uint32, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

// ChecksumOffload tells whether an interface leaves checksums to its hardware.
func ChecksumOffload(name string) (bool, error) {
	on, err := ethtool(name, ethtoolValue{cmd: getTXChecksum})
	if err != nil {
		return false, fmt.Errorf("read checksum offload of %s: %w", name, err)
	}
	return on != 0, nil
}

// SetChecksumOffload switches it; segmentation offload needs it and goes along.
func SetChecksumOffload(name string, on bool) error {
	value := ethtoolValue{cmd: setTXChecksum}
	if on {
		value.data = 1
	}
	if _, err := ethtool(name, value); err != nil {
		return fmt.Errorf("switch checksum offload of %s: %w", name, err)
	}
	return nil
}
