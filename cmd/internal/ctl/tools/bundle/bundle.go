// SPDX-License-Identifier: Apache-2.0

// Package bundle packs what somebody needs who is to find out what is wrong
// with a node: what the agent says, objects, the kernel's tables, settings,
// logs and metrics. Everything passes a filter that takes secrets out.
package bundle

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/tools/doctor"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
)

// Options say where to look.
type Options struct {
	Root   string // before all paths, for tests; empty: the machine's own
	Config string // the agent's configuration; empty: its usual place
	Agent  agentapi.Client
	Now    time.Time
	Size   int64 // of all files together, unpacked, at most; 0: 64 MiB
}

// collector writes one bundle.
type collector struct {
	Options
	config  config.Config
	secrets redactor
	tar     *tar.Writer
	size    int64 // so far
	failed  []string
}

// longestFile bounds one file; of logs, the end is kept.
const longestFile = 4 << 20

// largestBundle bounds all files together.
const largestBundle = 64 << 20

// Write writes the bundle. What can't be had is named in errors.txt inside, and
// is no error.
func Write(ctx context.Context, o Options, w io.Writer) error {
	c := &collector{Options: o, secrets: newRedactor()}
	c.readConfig()
	z := gzip.NewWriter(w)
	c.tar = tar.NewWriter(z)
	parts := []func(context.Context) error{c.answers, c.diagnosis, c.files, c.network, c.settings, c.maps, c.metrics, c.logs}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	err := c.add(errorsFile, []byte(strings.Join(c.failed, "\n")+"\n"))
	if err := errors.Join(err, c.tar.Close(), z.Close()); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

func (c *collector) path(p string) string { return filepath.Join(c.Root, p) }

// miss notes what could not be had.
func (c *collector) miss(what string, err error) {
	c.failed = append(c.failed, fmt.Sprintf("%s: %v", what, err))
}

// readConfig reads the configuration, for its paths, and the files that it
// names as secret, to find them elsewhere.
func (c *collector) readConfig() {
	file := cmp.Or(c.Config, c.path(config.DefaultPath))
	var err error
	if c.config, err = config.Load(file); err != nil {
		c.miss("configuration", err)
		if c.config, err = config.Parse(nil); err != nil {
			c.miss("configuration", err)
		}
	}
	for _, pattern := range []string{
		"/etc/patchbay/gossip/*", "/etc/patchbay/*.key", "/var/run/secrets/kubernetes.io/serviceaccount/token",
		"/run/secrets/kubernetes.io/serviceaccount/token", c.config.Gossip.KeyFile,
	} {
		if pattern == "" {
			continue
		}
		files, _ := filepath.Glob(c.path(pattern)) // the patterns are well-formed
		for _, f := range files {
			if secret, err := os.ReadFile(f); err == nil {
				c.secrets.know(secret)
			}
		}
	}
}

// errorsFile names what could not be had. It is written last, and always.
const errorsFile = "errors.txt"

// add writes a file, without secrets.
func (c *collector) add(name string, text []byte) error {
	if len(text) > longestFile {
		text = append([]byte("… the end of it:\n"), text[len(text)-longestFile:]...)
	}
	text = c.secrets.text(text)
	if limit := cmp.Or(c.Size, largestBundle); name != errorsFile && c.size+int64(len(text)) > limit {
		c.miss(name, fmt.Errorf("left out: %d bytes are more than there is room for", len(text)))
		return nil
	}
	c.size += int64(len(text))
	header := &tar.Header{Name: "patchbay-bundle/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: c.Now, Typeflag: tar.TypeReg}
	if err := c.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := c.tar.Write(text)
	return err
}

// addValue writes a value as JSON, or notes why there is none.
func (c *collector) addValue(name string, value any, err error) error {
	if err != nil {
		c.miss(name, err)
		return nil
	}
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return c.add(name, append(text, '\n'))
}

// answers are what the agent says.
func (c *collector) answers(ctx context.Context) error {
	info, err := c.Agent.Info(ctx)
	errs := []error{c.addValue("agent/info.json", info, err)}
	pods, err := c.Agent.Pods(ctx)
	errs = append(errs, c.addValue("agent/pods.json", pods, err))
	services, err := c.Agent.Services(ctx)
	errs = append(errs, c.addValue("agent/services.json", services, err))
	addresses, err := c.Agent.Addresses(ctx)
	errs = append(errs, c.addValue("agent/addresses.json", addresses, err))
	leases, err := c.Agent.Leases(ctx)
	errs = append(errs, c.addValue("agent/leases.json", leases, err))
	nics, err := c.Agent.NICs(ctx)
	errs = append(errs, c.addValue("agent/nics.json", nics, err))
	routes, err := c.Agent.Routes(ctx)
	errs = append(errs, c.addValue("agent/routes.json", routes, err))
	drops, err := c.Agent.Drops(ctx)
	return errors.Join(append(errs, c.addValue("agent/drops.json", drops, err))...)
}

func (c *collector) diagnosis(ctx context.Context) error {
	return c.addValue("doctor.json", doctor.Examine(ctx, doctor.Env{Root: c.Root, Agent: c.Agent}), nil)
}

// files are configuration, objects and what was written for them.
func (c *collector) files(context.Context) error {
	patterns := map[string]string{
		"config":   cmp.Or(c.Config, c.path(config.DefaultPath)),
		"objects":  c.path("/etc/patchbay/objects/*.yaml"),
		"status":   c.path("/var/lib/patchbay/status/*.yaml"),
		"snapshot": c.path("/var/lib/patchbay/snapshot"),
		"cni":      c.path("/etc/cni/net.d/*"),
		"sysctl.d": c.path("/etc/sysctl.d/*"),
		"systemd":  c.path("/etc/systemd/networkd.conf.d/*.conf"),
	}
	if dir, ok := strings.CutPrefix(c.config.Source, "file:"); ok {
		patterns["objects"] = c.path(filepath.Join(dir, "*.yaml"))
	}
	for dir, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			if err := c.addFile(filepath.Join(dir, filepath.Base(p)), p); err != nil {
				return err
			}
		}
	}
	return nil
}

// addFile writes a file of the machine's. Kubeconfigs are nothing but secrets.
func (c *collector) addFile(name, from string) error {
	info, err := os.Stat(from)
	if err != nil || !info.Mode().IsRegular() || strings.Contains(strings.ToLower(name), "kubeconfig") {
		return nil
	}
	text, err := os.ReadFile(from)
	if err != nil {
		c.miss(name, err)
		return nil
	}
	return c.add(name, text)
}
