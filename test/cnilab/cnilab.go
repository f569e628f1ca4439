// SPDX-License-Identifier: Apache-2.0

// Package cnilab runs CNI plugins as a container runtime does, by libcni, with
// a network namespace as the node and others as the pods.
package cnilab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// referenceVersion is the version of the reference plugins.
const referenceVersion = "v1.9.1"

// Build builds Patchbay's CNI plugins into dir, with all their names.
func Build(dir string) error {
	root, err := moduleDir("github.com/patchbay-net/patchbay")
	if err != nil {
		return err
	}
	if err := build(root, filepath.Join(dir, "patchbay"), "./cmd/patchbay"); err != nil {
		return err
	}
	for _, name := range []string{"patchbay-ipam", "patchbay-vswitch"} {
		if err := os.Symlink("patchbay", filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("name the plugin %s: %w", name, err)
		}
	}
	return nil
}

// BuildAgent builds the node agent as path.
func BuildAgent(path string) error {
	root, err := moduleDir("github.com/patchbay-net/patchbay")
	if err != nil {
		return err
	}
	return build(root, path, "./cmd/patchbayd")
}

// BuildReference builds reference plugins into dir, each named by its folder
// such as main/bridge, with the dependencies of their own module.
func BuildReference(dir string, plugins ...string) error {
	args := []string{"install", "-trimpath", "-ldflags", "-s -w"}
	for _, plugin := range plugins {
		args = append(args, "github.com/containernetworking/plugins/plugins/"+plugin+"@"+referenceVersion)
	}
	return run(exec.Command("go", args...), "GOBIN="+dir)
}

// BuildTool builds cnitool into dir.
func BuildTool(dir string) error {
	module, err := moduleDir("github.com/containernetworking/cni")
	if err != nil {
		return err
	}
	return build(module, filepath.Join(dir, "cnitool"), "./cnitool")
}

func moduleDir(module string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func build(module, out, pkg string) error {
	return run(exec.Command("go", "build", "-C", module, "-trimpath", "-ldflags", "-s -w", "-o", out, pkg))
}

func run(cmd *exec.Cmd, env ...string) error {
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, text)
	}
	return nil
}

// Runtime is a container runtime on one node and network.
type Runtime struct {
	Node *netlab.Namespace
	List *libcni.NetworkConfigList
	CNI  *libcni.CNIConfig
}

// NewRuntime returns a runtime that finds plugins in bin and uses the
// configuration list.
func NewRuntime(tb testing.TB, node *netlab.Namespace, bin, list string) *Runtime {
	tb.Helper()
	parsed, err := libcni.ConfListFromBytes([]byte(list))
	if err != nil {
		tb.Fatalf("parse %s: %v", list, err)
	}
	return &Runtime{Node: node, List: parsed, CNI: libcni.NewCNIConfigWithCacheDir([]string{bin}, tb.TempDir(), nil)}
}

// Attachment returns what a runtime says of a container: its name, and the
// namespace if it still has one.
func Attachment(id string, pod *netlab.Namespace) *libcni.RuntimeConf {
	conf := &libcni.RuntimeConf{ContainerID: id, IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", id}, {"K8S_POD_UID", "uid-" + id},
	}}
	if pod != nil {
		conf.NetNS = pod.Path()
	}
	return conf
}

// Add calls ADD and returns the result.
func (r *Runtime) Add(ctx context.Context, conf *libcni.RuntimeConf) (result *types100.Result, err error) {
	err = r.Node.Do(func() error {
		raw, err := r.CNI.AddNetworkList(ctx, r.List, conf)
		if err != nil {
			return err
		}
		result, err = types100.NewResultFromResult(raw)
		return err
	})
	return result, err
}

// Del calls DEL.
func (r *Runtime) Del(ctx context.Context, conf *libcni.RuntimeConf) error {
	return r.Node.Do(func() error { return r.CNI.DelNetworkList(ctx, r.List, conf) })
}

// Check calls CHECK with the result of the last ADD.
func (r *Runtime) Check(ctx context.Context, conf *libcni.RuntimeConf) error {
	return r.Node.Do(func() error { return r.CNI.CheckNetworkList(ctx, r.List, conf) })
}

// Status calls STATUS.
func (r *Runtime) Status(ctx context.Context) error {
	return r.Node.Do(func() error { return r.CNI.GetStatusNetworkList(ctx, r.List) })
}

// GC calls GC with the valid containers, on this runtime's cached attachments too.
func (r *Runtime) GC(ctx context.Context, valid ...string) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, id := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: "eth0"})
	}
	return r.Node.Do(func() error { return r.CNI.GCNetworkList(ctx, r.List, args) })
}
