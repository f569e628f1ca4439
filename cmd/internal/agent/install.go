// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/netdev/nat"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// The CNI binary, and the names that it goes by as well.
const cniBinary = "patchbay"

func cniNames() []string { return []string{"patchbay-ipam", "patchbay-vswitch"} }

// installCNI puts the CNI binary that lies beside this program into dir, with
// its other names as links. Each name is replaced in one step: an ADD that runs
// meanwhile finds the old or the new one.
func installCNI(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install cni: %w", err)
	}
	self, err = filepath.EvalSymlinks(self)
	if err != nil {
		return fmt.Errorf("install cni: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("install cni: %w", err)
	}
	if err := copyBinary(filepath.Join(filepath.Dir(self), cniBinary), filepath.Join(dir, cniBinary)); err != nil {
		return fmt.Errorf("install cni: %w", err)
	}
	for _, name := range cniNames() {
		temp := filepath.Join(dir, "."+name+".new")
		if err := errors.Join(removeFile(temp), os.Symlink(cniBinary, temp), os.Rename(temp, filepath.Join(dir, name))); err != nil {
			return fmt.Errorf("install cni: %w", err)
		}
	}
	return nil
}

// copyBinary copies a file, made whole before it has its name.
func copyBinary(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".patchbay-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // fails once renamed
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}

// cleanup removes what the agent, the plugins and the pods have on this node.
// What runs in pods loses its network; it goes on after errors.
func cleanup(cfg config.Config, o options) error {
	if o.role == "device" {
		return switches.Remove()
	}
	err := datapath.Remove(cfg.Paths.BPF)
	if errors.Is(err, datapath.ErrInUse) {
		return fmt.Errorf("the agent still runs on this node; stop it, then clean up again: %w", err)
	}
	errs := []error{err, removeFile(cfg.Paths.Conflist())}
	for _, name := range append(cniNames(), cniBinary) {
		errs = append(errs, removeFile(filepath.Join(o.dir, name)))
	}
	errs = append(errs, removeNetwork())
	for _, path := range []string{cfg.Paths.AgentSocket(), cfg.Paths.Ready(), cfg.Paths.Leases(), cfg.Paths.Snapshot()} {
		errs = append(errs, removeFile(path))
	}
	for _, path := range []string{cfg.Paths.Leases(), customRoutes(cfg)} {
		left, err := filepath.Glob(path + "*")
		errs = append(errs, err)
		for _, file := range left {
			errs = append(errs, removeFile(file))
		}
	}
	return errors.Join(errs...)
}

// removeNetwork takes back what was told the kernel by netlink.
func removeNetwork() error {
	_, errCustom := netdev.SyncRoutesOf(netdev.CustomProtocol, nil)
	errs := []error{errCustom, netdev.SyncRoutes(nil), netdev.RemoveLink(netdev.TunnelName), nat.Remove()}
	_, err := netdev.SyncNeighbours(nil)
	errs = append(errs, err)
	for _, is4 := range []bool{true, false} {
		errs = append(errs, netdev.RemoveNeighbour(plan.ServiceGateway(is4)))
	}
	pods, err := netdev.PodLinks()
	errs = append(errs, err)
	for name := range pods {
		errs = append(errs, netdev.RemoveLink(name))
	}
	links, err := netdev.Links()
	errs = append(errs, err)
	for _, l := range links {
		errs = append(errs, netdev.SyncGroups(l.Index, nil))
	}
	return errors.Join(errs...)
}

// removeFile removes a file; one that isn't there is no error.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
