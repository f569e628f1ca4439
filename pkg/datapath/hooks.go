// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/patchbay-net/patchbay/pkg/datapath/attach"
	"github.com/patchbay-net/patchbay/pkg/datapath/load"
)

// socketHooks are the programs of sock.bpf.c and where they go.
func socketHooks() map[string]ebpf.AttachType {
	return map[string]ebpf.AttachType{
		"sock_connect4": ebpf.AttachCGroupInet4Connect,
		"sock_connect6": ebpf.AttachCGroupInet6Connect,
		"sock_sendmsg4": ebpf.AttachCGroupUDP4Sendmsg,
		"sock_sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"sock_recvmsg4": ebpf.AttachCGroupUDP4Recvmsg,
		"sock_recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"sock_peer4":    ebpf.AttachCgroupInet4GetPeername,
		"sock_peer6":    ebpf.AttachCgroupInet6GetPeername,
	}
}

// deviceKind is a kind of device: its links are named <kind>-<ifindex>-in and
// -out, and its programs are in and out.
type deviceKind struct{ name, in, out string }

func deviceKinds() []deviceKind {
	return []deviceKind{
		{"nic", "tc_uplink_in", "tc_uplink_out"},
		{"tunnel", "tc_tunnel_in", "tc_tunnel_out"},
	}
}

// podKind has filters instead of links: see attach.Filters.
func podKind() deviceKind { return deviceKind{"pod", "tc_pod_in", "tc_pod_out"} }

// AttachSockets balances the sockets of all processes in a cgroup v2 directory
// and below. Attached elsewhere before, it moves.
func (d *Datapath) AttachSockets(cgroupPath string) error {
	for name, at := range socketHooks() {
		prog, err := d.program(name)
		if err != nil {
			return err
		}
		if err := attach.Cgroup(d.set.Link(name), cgroupPath, at, prog); err != nil {
			return fmt.Errorf("sockets of %s: %w", cgroupPath, err)
		}
	}
	return nil
}

// attachDevice attaches both programs of a kind of device.
func (d *Datapath) attachDevice(k deviceKind, index int) error {
	for suffix, name := range map[string]string{"in": k.in, "out": k.out} {
		prog, err := d.program(name)
		if err != nil {
			return err
		}
		pin := d.set.Link(fmt.Sprintf("%s-%d-%s", k.name, index, suffix))
		hook := attach.Hook{IfIndex: index, Egress: suffix == "out"}
		err = attach.TCX(pin, hook, prog)
		if errors.Is(err, ebpf.ErrNotSupported) {
			err = d.filters.Attach(hook, prog)
		}
		if err != nil {
			return fmt.Errorf("%s %d: %w", k.name, index, err)
		}
	}
	return nil
}

func (d *Datapath) detachDevice(k deviceKind, index int) error {
	return errors.Join(
		attach.Detach(d.set.Link(fmt.Sprintf("%s-%d-in", k.name, index))),
		attach.Detach(d.set.Link(fmt.Sprintf("%s-%d-out", k.name, index))),
		d.filters.Detach(index),
	)
}

// attachPod attaches both programs to the host end of a pod's veth.
func (d *Datapath) attachPod(index int) error {
	k := podKind()
	for _, hook := range []attach.Hook{{IfIndex: index}, {IfIndex: index, Egress: true}} {
		name := k.in
		if hook.Egress {
			name = k.out
		}
		prog, err := d.program(name)
		if err != nil {
			return err
		}
		if err := d.filters.Attach(hook, prog); err != nil {
			return err
		}
	}
	return nil
}

// replacePrograms puts the programs just loaded in the place of those that an
// earlier process attached: each hook by one atomic update, none detached. A
// hook whose device is gone is unpinned.
func (d *Datapath) replacePrograms() error {
	links, err := d.set.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, name := range links {
		errs = append(errs, d.replaceLink(name))
	}
	pods, err := d.endpoints.List()
	errs = append(errs, err)
	for _, pod := range pods {
		err := d.attachPod(pod.IfIndex)
		if attach.NoDevice(err) {
			// The pod went while no agent ran; its DEL or a reconcile clears the entries.
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (d *Datapath) replaceLink(name string) error {
	pin := d.set.Link(name)
	program := d.programOf(name)
	if program == "" {
		// What an older version attached and this one has no use for.
		return attach.Detach(pin)
	}
	prog, err := d.program(program)
	if err != nil {
		return err
	}
	return attach.Replace(pin, prog)
}

// programOf is the program for a pinned link, by the link's name.
func (d *Datapath) programOf(link string) string {
	if _, ok := socketHooks()[link]; ok {
		return link
	}
	for _, k := range deviceKinds() {
		rest, ok := strings.CutPrefix(link, k.name+"-")
		if !ok {
			continue
		}
		index, direction, _ := strings.Cut(rest, "-")
		if _, err := strconv.Atoi(index); err != nil {
			continue
		}
		switch direction {
		case "in":
			return k.in
		case "out":
			return k.out
		}
	}
	return ""
}

// Remove detaches all programs and unpins everything below pinDir, which goes
// too. It returns ErrInUse while an agent runs. Nothing there is no error.
func Remove(pinDir string) error {
	if _, err := os.Stat(pinDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := load.Lock(pinDir)
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	errs := []error{detachFilters(pinDir)}
	links, err := filepath.Glob(filepath.Join(pinDir, "v*", "links", "*"))
	errs = append(errs, err)
	for _, pin := range links {
		errs = append(errs, attach.Detach(pin))
	}
	// bpffs lets go of a map with its last pin.
	return errors.Join(append(errs, os.RemoveAll(pinDir))...)
}

// detachFilters takes the filters off the devices that the pinned maps name.
func detachFilters(pinDir string) error {
	devices, err := load.Devices(pinDir)
	if err != nil {
		return err
	}
	filters, err := attach.NewFilters()
	if err != nil {
		return err
	}
	defer filters.Close()
	var errs []error
	for _, index := range devices {
		errs = append(errs, filters.Detach(index))
	}
	return errors.Join(errs...)
}
