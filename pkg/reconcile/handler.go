// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// firstSync is how long an ADD may wait for the objects.
const firstSync = 10 * time.Second

// AddEndpoint puts a pod's interface in force. It returns only once Services
// are, too: what the pod first connects to is balanced.
func (r *Reconciler) AddEndpoint(ctx context.Context, e agentapi.Endpoint) error {
	if err := r.awaitSync(ctx); err != nil {
		return err
	}
	if err := r.pods.Add(e); err != nil || len(e.Ports) == 0 {
		return err
	}
	return r.awaitServices(ctx)
}

// awaitServices waits until frontends, host ports among them, are in force anew.
func (r *Reconciler) awaitServices(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstSync)
	defer cancel()
	done := make(chan struct{})
	r.mu.Lock()
	r.waiting = append(r.waiting, done)
	r.mu.Unlock()
	r.touch(partServices)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return agentapi.Errorf(agentapi.CodeTryLater, "host ports are not in force: %s", r.whyNotSynced())
	}
}

func (r *Reconciler) awaitSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstSync)
	defer cancel()
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return agentapi.Errorf(agentapi.CodeTryLater, "agent is not ready: %s", r.whyNotSynced())
	}
}

// whyNotSynced says what the agent still waits for.
func (r *Reconciler) whyNotSynced() string {
	for _, p := range r.problems.List() {
		if strings.HasPrefix(p.Object, "agent/") {
			return p.Object + ": " + p.Text
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range r.Kinds() {
		if !r.store.Synced(kind) {
			return fmt.Sprintf("objects of kind %s have not been read from %s yet", kind, r.Config.Source)
		}
	}
	return "starting"
}

// Handler serves the agent's API.
func (r *Reconciler) Handler() agentapi.Handler {
	none := func(f func() error) (agentapi.None, error) { return agentapi.None{}, f() }
	type nothing = agentapi.None
	return agentapi.Handler{
		agentapi.OpEndpointAdd: agentapi.Do(func(ctx context.Context, e agentapi.Endpoint) (nothing, error) {
			return none(func() error { return r.AddEndpoint(ctx, e) })
		}),
		agentapi.OpEndpointDelete: agentapi.Do(func(_ context.Context, d agentapi.EndpointDelete) (nothing, error) {
			return none(func() error { return r.pods.Delete(d) })
		}),
		agentapi.OpEndpointCheck: agentapi.Do(func(_ context.Context, e agentapi.Endpoint) (nothing, error) {
			return none(func() error { return r.pods.Check(e) })
		}),
		agentapi.OpGC: agentapi.Do(func(_ context.Context, g agentapi.GC) (nothing, error) {
			return none(func() error { return r.pods.GC(g) })
		}),
		agentapi.OpStatus:    read(func() (agentapi.Status, error) { return r.Status(), nil }),
		agentapi.OpInfo:      read(r.Info),
		agentapi.OpPods:      read(func() ([]agentapi.Pod, error) { return r.Pods(), nil }),
		agentapi.OpServices:  read(func() ([]agentapi.Service, error) { return r.Services(), nil }),
		agentapi.OpAddresses: read(r.Addresses),
		agentapi.OpLeases:    read(r.ListLeases),
		agentapi.OpNICs:      read(func() ([]agentapi.NIC, error) { return r.NICs(), nil }),
		agentapi.OpDrops:     read(r.Drops),
	}
}

func read[T any](f func() (T, error)) agentapi.Func {
	return agentapi.Do(func(context.Context, agentapi.None) (T, error) { return f() })
}
