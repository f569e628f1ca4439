// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/rest"
)

// leases are the requests that an election makes. An update carries the version
// that was read, so of two that claim a lease one fails.
type leases struct {
	client    *rest.RESTClient
	namespace string
}

func (el *elector) leases() leases {
	return leases{el.client.clients[coordinationv1.SchemeGroupVersion], el.Namespace}
}

func (el *elector) get(ctx context.Context) (*coordinationv1.Lease, error) {
	l := el.leases()
	lease := &coordinationv1.Lease{}
	return lease, l.client.Get().Namespace(l.namespace).Resource("leases").Name(el.Name).Do(ctx).Into(lease)
}

func (l leases) create(ctx context.Context, lease *coordinationv1.Lease) error {
	return l.client.Post().Namespace(l.namespace).Resource("leases").Body(lease).Do(ctx).Error()
}

func (l leases) update(ctx context.Context, lease *coordinationv1.Lease) error {
	lease.APIVersion, lease.Kind = "coordination.k8s.io/v1", "Lease"
	return l.client.Put().Namespace(l.namespace).Resource("leases").Name(lease.Name).Body(lease).Do(ctx).Error()
}
