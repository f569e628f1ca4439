// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/reconcile/plan"
)

// syncServices computes all frontends and hands them to the datapath, which
// applies what differs.
func (r *Reconciler) syncServices() error {
	r.mu.Lock()
	causes, waiting := r.triggers, r.waiting
	r.triggers, r.waiting = triggers{}, nil
	r.mu.Unlock()
	entries, checks, problems := r.balance()
	r.entries = entries
	if r.OnServices != nil {
		r.OnServices(checks)
	}
	if !r.seen().computed {
		r.others.MarkAll() // early parts were run without
	}
	r.update(func(v *view) { v.entries, v.computed = entries, true })
	// What a full map refuses of single Services is theirs; the rest is in force.
	refused, err := datapath.Refused(r.Datapath.SetServices(entries))
	for name, cause := range refused {
		problems["object Service "+name.String()] = cause
	}
	r.problems.Replace("object ", problems)
	if err != nil {
		r.mu.Lock()
		r.waiting = append(r.waiting, waiting...)
		r.mu.Unlock()
		return err
	}
	for _, done := range waiting {
		close(done)
	}
	if r.Meter != nil {
		r.Meter.InForce(causes.v4, causes.v6)
	}
	return nil
}

// finish is what follows when all parts are in force: endpoints are accepted,
// and the CNI configuration, last of all, tells the runtime that pods may come.
func (r *Reconciler) finish() {
	select {
	case <-r.synced:
	default:
		close(r.synced)
		r.Log.Info("objects are in force", "services", len(r.Services()))
	}
	err := r.writeConflist()
	r.problems.Note("agent/cni configuration", err)
	if err == nil && time.Since(r.marked) >= agentapi.ReadyInterval/2 {
		err = agentapi.MarkReady(r.Config.Paths.Ready())
		r.problems.Note("agent/ready file", err)
		r.marked = time.Now()
	}
	r.update(func(v *view) { v.finished, v.unready = true, err })
	signal(r.note)
}

var errNoRanges = errors.New("this node has no pod ranges yet: it needs spec.podCIDRs in its Node object, or an IPBlock; no CNI configuration is written")

// writeConflist writes the CNI configuration if it isn't as it must be. It is
// never taken away here: that would end the start of pods on a healthy node.
func (r *Reconciler) writeConflist() error {
	want, err := plan.Conflist(r.podRanges(), r.net.PodMTU, r.Config)
	if err != nil {
		return fmt.Errorf("make CNI configuration: %w", err)
	}
	if want == nil {
		return errNoRanges
	}
	path := r.Config.Paths.Conflist()
	if have, err := os.ReadFile(path); err == nil && slices.Equal(have, want) {
		return nil
	}
	if err := replaceFile(path, want); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	r.Log.Info("wrote CNI configuration", "path", path)
	return nil
}

// replaceFile puts a whole file in place at once.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".patchbay-*") // no runtime reads a name like that
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
