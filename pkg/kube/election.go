// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Election is one program out of several, chosen by a Lease object.
type Election struct {
	Namespace string
	Name      string // of the Lease
	Identity  string // of this candidate; different for each
	// Duration is how long a leader that says nothing is believed in; it gives up
	// itself after two thirds of that. 0: 15 s.
	Duration time.Duration
}

// ErrLeadershipLost is what RunElected returns after the Lease couldn't be
// renewed, or went to another.
var ErrLeadershipLost = errors.New("leadership lost")

// elector is one candidate.
type elector struct {
	Election
	client *Client
	// The Lease as last seen, and when by our own clock: clocks of others don't
	// count.
	seen   coordinationv1.LeaseSpec
	seenAt time.Time
}

// RunElected waits to be the leader, then calls lead with a context that ends
// with the leadership. Returns nil when ctx ends; lead's error; or
// ErrLeadershipLost, after which the caller may try again, but not before lead
// has returned. The Lease is given back at the end.
func (c *Client) RunElected(ctx context.Context, e Election, lead func(context.Context) error) error {
	if e.Duration == 0 {
		e.Duration = 15 * time.Second
	}
	el := &elector{Election: e, client: c}
	if err := el.acquire(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	c.opts.Log.Info("elected", "lease", e.Namespace+"/"+e.Name, "identity", e.Identity)
	leading, cancel := context.WithCancelCause(ctx)
	renewing := make(chan struct{})
	go func() {
		defer close(renewing)
		cancel(el.renew(leading))
	}()
	err := lead(leading)
	cancel(nil)
	<-renewing
	cause := context.Cause(leading)
	if !errors.Is(cause, ErrLeadershipLost) {
		el.release()
	}
	if err != nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(cause, ErrLeadershipLost) {
		return cause
	}
	return nil
}

// retry is how often the Lease is looked at.
func (el *elector) retry() time.Duration { return el.Duration / 8 }

// acquire returns once the Lease is ours.
func (el *elector) acquire(ctx context.Context) error {
	told := ""
	for {
		err := el.attempt(ctx, time.Now())
		if err == nil {
			return nil
		}
		if err.Error() != told && ctx.Err() == nil {
			told = err.Error()
			el.client.opts.Log.Info("waiting to be elected", "lease", el.Namespace+"/"+el.Name, "why", told)
		}
		if !pause(ctx, el.retry()) {
			return ctx.Err()
		}
	}
}

// renew holds on to the Lease and returns when it is lost, or with ctx.
func (el *elector) renew(ctx context.Context) error {
	last := time.Now()
	for pause(ctx, el.retry()) {
		now := time.Now()
		attempt, cancel := context.WithDeadline(ctx, last.Add(el.Duration*2/3))
		err := el.attempt(attempt, now)
		cancel()
		switch {
		case err == nil:
			last = now
		case errors.Is(err, errHeld) || time.Since(last) > el.Duration*2/3:
			return fmt.Errorf("%w: %w", ErrLeadershipLost, err)
		}
	}
	return nil
}

// pause returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

var errHeld = errors.New("another holds the lease")

// attempt takes or renews the Lease. Returns an error that wraps errHeld if
// another has it.
func (el *elector) attempt(ctx context.Context, now time.Time) error {
	lease, err := el.get(ctx)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{
			TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
			ObjectMeta: metav1.ObjectMeta{Namespace: el.Namespace, Name: el.Name},
		}
		el.claim(lease, now)
		return el.leases().create(ctx, lease)
	}
	if err != nil {
		return err
	}
	if !sameLease(el.seen, lease.Spec) {
		el.seen, el.seenAt = *lease.Spec.DeepCopy(), now
	}
	holder := value(lease.Spec.HolderIdentity)
	if holder != "" && holder != el.Identity && now.Before(el.seenAt.Add(el.duration(lease))) {
		return fmt.Errorf("%w: %s", errHeld, holder)
	}
	el.claim(lease, now)
	return el.leases().update(ctx, lease)
}

// duration is how long the holder of a lease is believed in: as it says itself.
func (el *elector) duration(lease *coordinationv1.Lease) time.Duration {
	if s := lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		return time.Duration(*s) * time.Second
	}
	return el.Duration
}

// claim writes us into the lease.
func (el *elector) claim(lease *coordinationv1.Lease, now time.Time) {
	spec := &lease.Spec
	stamp := metav1.NewMicroTime(now)
	if value(spec.HolderIdentity) != el.Identity {
		transitions := value(spec.LeaseTransitions)
		if value(spec.HolderIdentity) != "" {
			transitions++
		}
		spec.LeaseTransitions = &transitions
		spec.AcquireTime = &stamp
	}
	seconds := int32(max(1, (el.Duration+time.Second-1)/time.Second))
	spec.HolderIdentity, spec.LeaseDurationSeconds, spec.RenewTime = &el.Identity, &seconds, &stamp
}

// release gives the lease back, so that the next needn't wait for its end.
func (el *elector) release() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	lease, err := el.get(ctx)
	if err != nil || value(lease.Spec.HolderIdentity) != el.Identity {
		return
	}
	none, second := "", int32(1)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &none, &second
	if err := el.leases().update(ctx, lease); err != nil {
		el.client.opts.Log.Warn("give lease back", "err", err)
	}
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

func sameLease(a, b coordinationv1.LeaseSpec) bool {
	return value(a.HolderIdentity) == value(b.HolderIdentity) && value(a.RenewTime).Time.Equal(value(b.RenewTime).Time)
}
