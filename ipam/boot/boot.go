// SPDX-License-Identifier: Apache-2.0

// Package boot tells one boot of the machine from another, and the time since
// the boot. State that must not outlive a boot carries its id; durations are
// measured on the boot's own clock, which no change of the wall clock moves.
package boot

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ID returns the kernel's id of this boot.
func ID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Uptime returns the time since the boot, suspended time included, to the
// hundredth of a second.
func Uptime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, fmt.Errorf("read uptime: %w", err)
	}
	first, _, _ := bytes.Cut(text, []byte(" "))
	seconds, err := strconv.ParseFloat(string(first), 64)
	if err != nil {
		return 0, fmt.Errorf("parse uptime %q: %w", text, err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
