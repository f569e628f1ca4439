// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// ErrUp is returned by Up where the lab stands already.
var ErrUp = errors.New("cluster is up already")

// Up raises the lab: it returns when every node has registered with the API
// server and has its pod range. Without a CNI plugin nodes stay NotReady.
// programs are what it runs, by name. If it fails or ctx ends, all is taken
// down again.
func (l *Lab) Up(ctx context.Context, programs map[string]string, log io.Writer) (err error) {
	if err := os.MkdirAll(strings.TrimSuffix(l.Dir, l.Name), 0o755); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(l.Dir); err == nil {
		return fmt.Errorf("%s: %w", l.Name, ErrUp)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.logs(log), l.down())
		}
	}()
	if err := l.save(programs); err != nil {
		return err
	}
	return l.raise(ctx, log)
}

func (l *Lab) raise(ctx context.Context, log io.Writer) error {
	start := time.Now()
	said := func(what string) { fmt.Fprintf(log, "%6.1fs %s\n", time.Since(start).Seconds(), what) }
	if err := l.network(ctx); err != nil {
		return err
	}
	if err := l.certificates(); err != nil {
		return err
	}
	said("network and certificates")
	for _, m := range l.Machines {
		if err := l.startMachine(m); err != nil {
			return err
		}
	}
	ready := func() bool { return l.Kubectl(ctx, "get", "--raw", "/readyz").Run() == nil }
	if err := until(ctx, 2*time.Minute, "API server", ready); err != nil {
		return err
	}
	said("API server ready")
	for _, m := range l.Machines {
		if err := l.register(ctx, m); err != nil {
			return err
		}
		said(m.Name + " registered")
	}
	return nil
}

// register waits for m to have a pod range, and labels a control plane.
func (l *Lab) register(ctx context.Context, m Machine) error {
	err := until(ctx, 2*time.Minute, "node "+m.Name, func() bool {
		out, err := l.Kubectl(ctx, "get", "node", m.Name, "-o", "jsonpath={.spec.podCIDR}").Output()
		return err == nil && len(out) > 0
	})
	if err != nil || !m.ControlPlane {
		return err
	}
	out, err := l.Kubectl(ctx, "label", "node", m.Name, "node-role.kubernetes.io/control-plane=",
		"node.kubernetes.io/exclude-from-external-load-balancers=").CombinedOutput()
	if err != nil {
		return fmt.Errorf("label %s: %w: %s", m.Name, err, out)
	}
	return nil
}

// Down ends the lab and all that is left of one that was killed. It does
// nothing where there is none.
func (l *Lab) Down() error {
	if _, err := os.Stat(strings.TrimSuffix(l.Dir, l.Name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return l.down()
}

func (l *Lab) down() error {
	// The names go first: a machine that starts meanwhile has either
	// recorded its cgroups by now, or finds no namespace and ends.
	var err error
	largest := *l
	largest.SetNodes(MaxNodes) // what is left may be of a lab with more nodes
	for _, name := range largest.namespaces() {
		err = errors.Join(err, deleteNetns(name))
	}
	err = errors.Join(err, l.killCgroups(context.Background()))
	_ = os.Remove(netnsDir) // unless others use it
	if err != nil {
		return fmt.Errorf("down: %w", err)
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return nil
}

// logs copies the consoles of the machines, which say why one didn't start.
func (l *Lab) logs(w io.Writer) error {
	for _, m := range l.Machines {
		data, err := os.ReadFile(l.path(m.Name, "console.log"))
		if err != nil || len(data) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s", m.Name, data); err != nil {
			return err
		}
	}
	return nil
}
