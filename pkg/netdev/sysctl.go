// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sysctls is where the kernel's settings are: /proc/sys, or in a container
// that has that read-only, where the host's is mounted.
type Sysctls string

// Ensure sets a sysctl, named with slashes (net/ipv4/ip_forward), unless it has
// the value already: then a read-only place is no trouble.
func (s Sysctls) Ensure(key, value string) error {
	path := filepath.Join(string(s), key)
	now, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", key, err)
	}
	if strings.TrimSpace(string(now)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s=%s (or set it on the node): %w", key, value, err)
	}
	return nil
}

// get returns the value, "" if there is no such setting.
func (s Sysctls) get(key string) string {
	raw, err := os.ReadFile(filepath.Join(string(s), key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// EnableForwarding lets the node forward IPv4 and, where the kernel has it,
// IPv6. A NIC that takes its IPv6 configuration from router advertisements is
// told to go on doing so, which forwarding would end. That is for the NICs there
// are: neither pods' host ends nor interfaces to come, which take the default,
// shall believe what a pod advertises.
func (s Sysctls) EnableForwarding() error {
	errs := []error{s.Ensure("net/ipv4/ip_forward", "1")}
	dirs, err := filepath.Glob(filepath.Join(string(s), "net/ipv6/conf/*"))
	if err != nil || len(dirs) == 0 {
		return errors.Join(errs...)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		if name == "all" || name == "default" || IsPodLink(name) {
			continue
		}
		key := "net/ipv6/conf/" + name + "/accept_ra"
		if s.get(key) == "1" {
			errs = append(errs, ignoreGone(s.Ensure(key, "2")))
		}
	}
	errs = append(errs, s.Ensure("net/ipv6/conf/all/forwarding", "1"))
	return errors.Join(errs...)
}

// PrepareNIC sets what a NIC of ours needs: no strict reverse path filter, and
// ARP answered for the NIC's own addresses only, so that two NICs on one wire
// don't answer for each other.
func (s Sysctls) PrepareNIC(name string) error {
	conf := "net/ipv4/conf/" + name + "/"
	errs := []error{s.LoosenFilter(name)}
	if s.get(conf+"arp_ignore") == "0" {
		errs = append(errs, s.Ensure(conf+"arp_ignore", "1"))
	}
	if s.get(conf+"arp_announce") == "0" {
		errs = append(errs, s.Ensure(conf+"arp_announce", "2"))
	}
	return errors.Join(errs...)
}

// LoosenFilter keeps the reverse path filter of an interface from being strict:
// a reply leaves by the NIC that its request came in by, whatever the routes
// say. The larger of the interface's and the general value counts: 1 is
// strict, 2 is loose.
func (s Sysctls) LoosenFilter(name string) error {
	key := "net/ipv4/conf/" + name + "/rp_filter"
	if max(s.get(key), s.get("net/ipv4/conf/all/rp_filter")) != "1" {
		return nil
	}
	return s.Ensure(key, "2")
}

// ignoreGone takes the disappearance of an interface for no error.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
