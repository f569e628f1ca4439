// SPDX-License-Identifier: Apache-2.0

// Package leasing decides which addresses and legs a pod gets: by what its
// annotations and its namespace's ask for, out of the blocks that the node has.
// The CNI plugin asks before each ADD. An ADD can't do without the agent anyway,
// whose policy must be in force when it returns, so there is no second way.
//
// Pods and namespaces are followed here, apart from what the reconciler looks at.
// A pod's object, and its namespace's, may come a moment later than kubelet's ADD,
// which waits for them, not for long. Then the ADD is to be made again, unless nothing was ever heard
// from the API since the agent's start, or the pod is a static one of kubelet's
// own, which needs no API: those get what pods without annotations do.
//
// It also reports the blocks' use, says when a draining block can be taken, and
// what pods wait for.
package leasing

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// PartName is the name of the part that reports.
const PartName = "leases"

// How long an ADD waits.
const (
	awaitPod    = 2 * time.Second  // for the pod's object
	awaitBlock  = 5 * time.Second  // for an address that the node has no block for yet
	awaitSync   = 10 * time.Second // for the first look at the objects
	forgetAfter = time.Minute      // what pods waited for that don't come back
)

// Options are what a Table works with.
type Options struct {
	Node    string
	Leases  *store.Store
	Gate    string         // lock file that every ADD holds shared
	CNIConf string         // folder of CNI configurations: who else serves networks
	Await   bool           // every pod has an object: wait for it
	Ranges  []netip.Prefix // of all pods and Services
	// Runtimes are the sockets that the container runtime may listen on.
	Runtimes []string
	Wake     func() // runs the part
	Log      *slog.Logger
	Now      func() time.Time
}

// Table is what a node knows of its pods' wishes and of its blocks. Make one with
// New; safe for concurrent use.
type Table struct {
	Options
	gate   *flock.Lock
	pods   *source.Store // pods and namespaces
	drains chan struct{} // there are blocks to be drained

	mu      sync.Mutex
	synced  bool          // objects have been looked at
	changed chan struct{} // closed, and made anew, when anything changed
	blocks  []block
	waiting map[agentapi.EndpointKey]waiter
	pools   map[string]*v1alpha1.IPPool
	objects *source.Store // as looked at last; it goes on changing
	states  []v1alpha1.NodeBlockState
	resting bool                   // addresses may come free by time alone
	acted   map[netip.Prefix]int64 // revisions of blocks that were acted on
	// reported are the states as told last.
	reported []v1alpha1.NodeBlockState
}

// waiter is an ADD that lacks addresses, and when it last said so.
type waiter struct {
	pod   agentapi.PodRequest
	wants []want
	at    time.Time
}

// want is an address that the node has no block for.
type want struct{ pool, addr string }

// New returns a table.
func New(o Options) *Table {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Table{
		Options: o, gate: flock.New(o.Gate), pods: source.NewStore(), changed: make(chan struct{}),
		waiting: map[agentapi.EndpointKey]waiter{}, pools: map[string]*v1alpha1.IPPool{},
		acted: map[netip.Prefix]int64{}, drains: make(chan struct{}, 1),
	}
}

// Part returns the part that looks at pools and blocks, and reports.
func (t *Table) Part() parts.Part {
	return parts.Part{
		Name: PartName, Kinds: []source.Kind{source.KindIPPool, source.KindIPBlock},
		Sync: t.Sync, Report: t.Report,
	}
}

// Kinds are the objects that Apply is to be told of.
func Kinds() []source.Kind { return []source.Kind{source.KindPod, source.KindNamespace} }

// Apply takes an event about a pod or a namespace in.
func (t *Table) Apply(ev source.Event) {
	if ev.Op != source.Problem && t.pods.Apply(ev) {
		t.tell()
	}
}

// tell wakes those who wait for a change.
func (t *Table) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}

// Handle serves the plugin's question and the operator's.
func (t *Table) Handle(h agentapi.Handler) {
	h[agentapi.OpPodPlan] = agentapi.Do(t.Plan)
	h[agentapi.OpIPAM] = agentapi.Do(t.Show)
	h[agentapi.OpIPAMRelease] = agentapi.Do(t.Release)
}

// until calls try now and after each change until it is done, or the time is
// over; then it returns try's last error.
func (t *Table) until(ctx context.Context, limit time.Duration, try func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		done, err := try()
		if done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// Plan answers what a pod gets.
func (t *Table) Plan(ctx context.Context, r agentapi.PodRequest) (agentapi.PodPlan, error) {
	err := t.until(ctx, awaitSync, func() (bool, error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.synced, agentapi.Errorf(agentapi.CodeTryLater, "the agent doesn't know the node's blocks yet")
	})
	if !t.isSynced() {
		return agentapi.PodPlan{}, err
	}
	wish, err := t.wishes(ctx, r)
	if err != nil {
		return agentapi.PodPlan{}, err
	}
	wish.foreign = r.Foreign
	var plan agentapi.PodPlan
	err = t.until(ctx, awaitBlock, func() (bool, error) {
		t.mu.Lock()
		p := t.planner(wish)
		plan = p.plan()
		t.note(r, p.wants)
		t.mu.Unlock()
		if len(p.wants) > 0 {
			t.Wake()
		}
		return len(p.wants) == 0 || p.refused != nil, p.failure()
	})
	return plan, err
}

func (t *Table) isSynced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.synced
}

// note remembers what an ADD waits for, in place of what its pod's earlier ones
// did. The lock is held.
func (t *Table) note(r agentapi.PodRequest, wants []want) {
	maps.DeleteFunc(t.waiting, func(key agentapi.EndpointKey, w waiter) bool {
		return key == r.EndpointKey || r.PodUID != "" && w.pod.PodUID == r.PodUID && key.IfName == r.IfName
	})
	if len(wants) > 0 {
		t.waiting[r.EndpointKey] = waiter{r, wants, t.Now()}
	}
}

// over tells whether a pod is no more, so that no ADD of it comes again.
func (t *Table) over(r agentapi.PodRequest) bool {
	return t.Await && r.PodName != "" && !static(r.PodUID) && t.pods.Synced(source.KindPod) && t.pod(r) == nil
}

// wishes finds out what a pod and its namespace ask for.
func (t *Table) wishes(ctx context.Context, r agentapi.PodRequest) (wish, error) {
	pod, ns := t.pod(r), t.namespace(r)
	if t.Await && r.PodName != "" {
		err := t.until(ctx, awaitPod, func() (bool, error) {
			pod, ns = t.pod(r), t.namespace(r)
			if pod != nil {
				return ns != nil, agentapi.Errorf(agentapi.CodeTryLater, "namespace %s is not known to the agent yet", r.PodNamespace)
			}
			return false, agentapi.Errorf(agentapi.CodeTryLater, "pod %s/%s is not known to the agent yet", r.PodNamespace, r.PodName)
		})
		if pod != nil && ns == nil || pod == nil && t.pods.Synced(source.KindPod) && !static(r.PodUID) {
			return wish{}, err
		}
	}
	return t.read(pod, ns)
}

// namespace returns a pod's, nil if it isn't known.
func (t *Table) namespace(r agentapi.PodRequest) *corev1.Namespace {
	ns, _ := source.Get[*corev1.Namespace](t.pods, source.KindNamespace, source.Key{Name: r.PodNamespace})
	return ns
}

// pod returns the object of a pod: not of an earlier one by the same name.
func (t *Table) pod(r agentapi.PodRequest) *corev1.Pod {
	pod, ok := source.Get[*corev1.Pod](t.pods, source.KindPod, source.Key{Namespace: r.PodNamespace, Name: r.PodName})
	if !ok || r.PodUID != "" && string(pod.UID) != r.PodUID && pod.UID != "" && pod.Annotations[corev1.MirrorPodAnnotationKey] != r.PodUID {
		return nil
	}
	return pod
}

// static tells whether a UID is kubelet's own, of a pod from its manifest folder:
// a hash, where the API server's have dashes.
func static(uid string) bool {
	for _, c := range uid {
		if c == '-' {
			return false
		}
	}
	return true
}
